"""How models are fine-tuned: the same for encoders and decoders, but for the position that stands for a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megatron_ettin.cli import positive
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.flags import above_zero, not_negative, share, token_length
from megatron_ettin.evaluation.suite import SuiteOptions

WARMUP_SHARE = 0.06
"""Of all steps; then the learning rate falls linearly to 0 (ModernBERT's GLUE template, as MosaicBERT's before it)."""
BETAS = (0.9, 0.98)
EPSILON = 1e-6
"""AdamW's, with ``BETAS`` (ModernBERT, src/evals/glue_jobs.py)."""
CLIP_NORM = 1.0
ENCODER_POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class Protocol:
    """One way of fine-tuning, by which all models of a comparison are judged."""

    learning_rates: Sequence[float] = (1e-5, 3e-5, 8e-5, 3e-4)
    """The grid. ModernBERT's jobs lie between 1e-5 and 8e-5; small models want more."""
    epochs: int = 3
    pooling: str = "mean"
    """What stands for a text in an encoder; in a decoder it is always the last token."""
    max_length: int = 256
    """Tokens of an input, special ones counted; longer ones lose their ends."""
    weight_decay: float = 1e-5
    train_items: int = 0
    """Train on this many items at most, drawn once; 0 takes all."""
    test_items: int = 0
    """Choose and report on this many items at most, drawn once; 0 takes all."""
    held_out_share: float = 0.1
    """Of the training items, where no split is left to choose the learning rate on."""
    choice_seeds: int = 0
    """The learning rate is chosen over so many seeds, and the others train at the chosen one only; 0 takes all."""
    train_batch_size: int = 32
    seeds: Sequence[int] = (1, 2, 3)
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigError: a value is out of bounds.
        """
        if not self.learning_rates or len(set(self.learning_rates)) != len(self.learning_rates):
            given = " ".join(f"{rate:g}" for rate in self.learning_rates)
            raise ConfigError(f"--classification-learning-rates {given}: must be one or more different rates")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            given = " ".join(str(seed) for seed in self.seeds)
            raise ConfigError(f"--seeds {given}: must be one or more different seeds")
        if self.choice_seeds > len(self.seeds):
            raise ConfigError(
                f"--classification-choice-seeds {self.choice_seeds}: there are only {len(self.seeds)} seeds"
            )
        if self.pooling not in ENCODER_POOLINGS:
            raise ConfigError(f"--classification-pooling {self.pooling}: must be one of {', '.join(ENCODER_POOLINGS)}")

    @classmethod
    def from_options(cls, options: SuiteOptions) -> Protocol:
        """Take the command line's values, and the defaults of what it does not name.

        Raises:
            ConfigError: a value is out of bounds.
        """
        return cls(**options.own("classification"), seeds=tuple(options.seeds), device=options.device)

    @property
    def seeds_to_choose_on(self) -> Sequence[int]:
        """The seeds that take part in the choice of the learning rate."""
        return self.seeds[: self.choice_seeds or len(self.seeds)]

    @property
    def uses_bf16(self) -> bool:
        """Whether matrices are multiplied in bfloat16: on a GPU, as ModernBERT's jobs do."""
        return self.device.startswith("cuda")

    def as_dict(self) -> dict[str, Any]:
        """Return everything that a result depends on; of the device that is its precision."""
        told = asdict(self) | {
            "learning_rates": list(self.learning_rates),
            "seeds": list(self.seeds),
            "optimizer": f"AdamW, betas {BETAS[0]} and {BETAS[1]}, epsilon {EPSILON:g}, gradient norm {CLIP_NORM:g}",
            "precision": "bf16" if self.uses_bf16 else "fp32",
            "schedule": f"linear, warm-up over {WARMUP_SHARE:.0%} of the steps, then to 0",
        }
        del told["device"]
        return told


def add_flags(add: Callable[..., Any]) -> None:
    """Add the fields that a user may set, with ``argparse``'s ``add_argument``."""
    default = Protocol()
    add(
        "--classification-learning-rates", nargs="+", type=above_zero, metavar="LR", default=default.learning_rates,
        help="rates to choose from by the validation score",
    )  # fmt: skip
    add("--classification-epochs", type=positive, metavar="N", default=default.epochs, help="passes over the data")
    add(
        "--classification-pooling", choices=ENCODER_POOLINGS, default=default.pooling,
        help="what stands for a text in an encoder; in a decoder it is the last token",
    )  # fmt: skip
    add(
        "--classification-max-length", type=token_length, metavar="TOKENS", default=default.max_length,
        help="longer inputs are cut",
    )  # fmt: skip
    add(
        "--classification-train-batch-size", type=positive, metavar="N", default=default.train_batch_size,
        help="items in a training step",
    )  # fmt: skip
    add("--classification-weight-decay", type=not_negative, metavar="X", default=default.weight_decay, help="AdamW's")
    add(
        "--classification-train-items", type=positive, metavar="N", default=None,
        help="train on so many items drawn at random instead of all",
    )  # fmt: skip
    add(
        "--classification-test-items", type=positive, metavar="N", default=None,
        help="choose and report on so many items drawn at random instead of all",
    )  # fmt: skip
    add(
        "--classification-held-out-share", type=share, metavar="X", default=default.held_out_share,
        help="share of the training items to choose on where there is no other split for it",
    )  # fmt: skip
    add(
        "--classification-choice-seeds", type=positive, metavar="N", default=None,
        help="choose the learning rate over the first N seeds instead of all",
    )  # fmt: skip
