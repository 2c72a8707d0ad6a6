"""How models become embedders: the same for encoders and decoders, but for the position that stands for a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megatron_ettin.cli import positive
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.flags import above_zero, token_length
from megatron_ettin.evaluation.suite import SuiteOptions

SCALE = 20.0
"""Of the cosine similarities in the loss: one over the temperature (the paper's training script)."""
WARMUP_SHARE = 0.05
"""Of all steps; then the learning rate falls linearly to 0 (the paper's training script)."""
POOLING: Mapping[bool, str] = {True: "mean", False: "lasttoken"}
"""By whether it is an encoder: what stands for a text."""


@dataclass(frozen=True)
class Protocol:
    """One way of contrastive fine-tuning, by which all models of a comparison are judged."""

    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3)
    """The grid; the paper's example for its smallest model is 3e-4."""
    epochs: int = 1
    batch_pairs: int = 1024
    """Pairs of a step: the other documents of the step are what a query must tell its own from."""
    mini_batch: int = 64
    """Pairs at a time in memory; the loss is over all of the step."""
    max_length: int = 512
    """Tokens of a text, special ones counted; longer ones lose their ends."""
    held_out: int = 1000
    """Training pairs to choose the learning rate on, and never trained on; at most a tenth of them."""
    seeds: Sequence[int] = (1, 2, 3)
    batch_size: int = 32
    """Texts at a time when a trained model embeds them."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigError: a value is out of bounds.
        """
        for flag, values in (("--retrieval-learning-rates", self.learning_rates), ("--seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                given = " ".join(f"{value:g}" for value in values)
                raise ConfigError(f"{flag} {given}: must be one or more different values")

    @classmethod
    def from_options(cls, options: SuiteOptions) -> Protocol:
        """Take the command line's values, and the defaults of what it does not name.

        Raises:
            ConfigError: a value is out of bounds.
        """
        given = {name: value for name, value in options.own("retrieval").items() if name in cls.__dataclass_fields__}
        return cls(**given, seeds=tuple(options.seeds), batch_size=options.batch_size, device=options.device)

    @property
    def uses_bf16(self) -> bool:
        """Whether training computes in bfloat16: on a GPU, as the paper's script does."""
        return self.device.startswith("cuda")

    def as_dict(self) -> dict[str, Any]:
        """Return everything that a result depends on."""
        return self.training_as_dict() | {"learning_rates": list(self.learning_rates), "seeds": list(self.seeds)}

    def training_as_dict(self) -> dict[str, Any]:
        """Return everything that one training depends on.

        What only changes memory and speed is no part of it; where it is computed is told by the precision.
        """
        told = asdict(self) | {
            "loss": f"multiple negatives ranking, cosine, scale {SCALE:g}, no text twice in a step",
            "schedule": f"linear, warm-up over {WARMUP_SHARE:.0%} of the steps, then to 0",
            "pooling": {"encoder": POOLING[True], "decoder": POOLING[False]},
            "precision": "bf16" if self.uses_bf16 else "fp32",
        }
        for elsewhere in ("learning_rates", "seeds", "mini_batch", "batch_size", "device"):
            del told[elsewhere]
        return told


def add_flags(add: Callable[..., Any]) -> None:
    """Add the fields that a user may set, with ``argparse``'s ``add_argument``."""
    default = Protocol()
    add(
        "--retrieval-learning-rates", nargs="+", type=above_zero, metavar="LR", default=default.learning_rates,
        help="rates to choose from by nDCG@10 on held-out training pairs",
    )  # fmt: skip
    for flag, value, text in (
        ("--retrieval-epochs", default.epochs, "passes over the training pairs"),
        ("--retrieval-batch-pairs", default.batch_pairs, "pairs of a training step, each other's wrong answers"),
        ("--retrieval-mini-batch", default.mini_batch, "pairs of a step at a time in memory; changes no result"),
        ("--retrieval-held-out", default.held_out, "training pairs to choose the rate on, a tenth at most"),
    ):
        add(flag, type=positive, metavar="N", default=value, help=text)
    add(
        "--retrieval-max-length", type=token_length, metavar="TOKENS", default=default.max_length,
        help="longer texts are cut",
    )  # fmt: skip
