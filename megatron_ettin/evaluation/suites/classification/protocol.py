"""The fine-tuning protocol of classification: the same for encoders and decoders except for the pooled position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from megatron_ettin.cli import positive
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.flags import above_zero, not_negative, share, token_length
from megatron_ettin.evaluation.suites.fine_tuning import CLIP_NORM, FineTuningProtocol

BETAS = (0.9, 0.98)
EPSILON = 1e-6
"""Of AdamW, as are ``BETAS`` (ModernBERT, src/evals/glue_jobs.py)."""
ENCODER_POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class ClassificationProtocol(FineTuningProtocol):
    """Settings of fine-tuning that all models of a comparison share."""

    suite: ClassVar[str] = "classification"
    warmup_share: ClassVar[float] = 0.06
    """As in ModernBERT's GLUE template, and MosaicBERT's before it."""
    learning_rates: Sequence[float] = (1e-5, 3e-5, 8e-5, 3e-4)
    """The grid. ModernBERT's GLUE jobs use 1e-5 to 8e-5; small models need higher rates."""
    epochs: int = 3
    pooling: str = "mean"
    """Pooling in an encoder; a decoder always uses the last token."""
    max_length: int = 256
    """Maximum input length in tokens, special tokens included; longer inputs are truncated."""
    weight_decay: float = 1e-5
    train_items: int = 0
    """Train on at most this many items, drawn once; 0 uses all."""
    test_items: int = 0
    """Select and report on at most this many items, drawn once; 0 uses all."""
    held_out_share: float = 0.1
    """Fraction of the training items that selects the learning rate if there is no split for it."""
    choice_seeds: int = 0
    """Select the learning rate with this many seeds; the others train at the selected rate only. 0 uses all."""
    train_batch_size: int = 32
    seeds: Sequence[int] = (1, 2, 3)
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is out of bounds.
        """
        super().__post_init__()
        if self.choice_seeds > len(self.seeds):
            raise ConfigError(
                f"--classification-choice-seeds {self.choice_seeds}: there are only {len(self.seeds)} seeds"
            )
        if self.pooling not in ENCODER_POOLINGS:
            raise ConfigError(f"--classification-pooling {self.pooling}: must be one of {', '.join(ENCODER_POOLINGS)}")

    @property
    def selection_seeds(self) -> Sequence[int]:
        """The seeds with which the learning rate is selected."""
        return self.seeds[: self.choice_seeds or len(self.seeds)]

    def as_dict(self) -> dict[str, Any]:
        """Return everything that a result depends on, with the precision instead of the device."""
        settings = asdict(self) | {
            "learning_rates": list(self.learning_rates),
            "seeds": list(self.seeds),
            "optimizer": f"AdamW, betas {BETAS[0]} and {BETAS[1]}, epsilon {EPSILON:g}, gradient norm {CLIP_NORM:g}",
            **self.training_settings(),
        }
        del settings["device"]
        return settings


def add_flags(add: Callable[..., Any]) -> None:
    """Add the flags of the protocol's fields with ``argparse``'s ``add_argument``."""
    flag = partial(ClassificationProtocol.add_flag, add)
    flag("--classification-learning-rates", above_zero, "LR", "grid, selected by validation score", nargs="+")
    flag("--classification-epochs", positive, "N", "passes over the training data")
    add(
        "--classification-pooling", choices=ENCODER_POOLINGS, default=ClassificationProtocol().pooling,
        help="pooling in an encoder; a decoder always uses the last token",
    )  # fmt: skip
    flag("--classification-max-length", token_length, "TOKENS", "longer inputs are truncated")
    flag("--classification-train-batch-size", positive, "N", "items per training step")
    flag("--classification-weight-decay", not_negative, "X", "weight decay of AdamW")
    flag("--classification-train-items", positive, "N", "train on at most N random items instead of all")
    flag("--classification-test-items", positive, "N", "select and report on at most N random items instead of all")
    flag(
        "--classification-held-out-share", share, "X", "fraction of training items for selection without a split for it"
    )
    flag(
        "--classification-choice-seeds", positive, "N", "select the learning rate with the first N seeds instead of all"
    )
