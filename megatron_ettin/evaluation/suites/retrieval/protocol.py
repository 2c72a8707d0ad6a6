"""The fine-tuning protocol of retrieval: the same for encoders and decoders except for the pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from megatron_ettin.cli import positive
from megatron_ettin.evaluation.flags import above_zero, token_length
from megatron_ettin.evaluation.suites.fine_tuning import FineTuningProtocol

SCALE = 20.0
"""Factor of the cosine similarities in the loss, the inverse temperature (the paper's training script)."""
POOLING: Mapping[bool, str] = {True: "mean", False: "lasttoken"}
"""Pooling by whether the model is an encoder."""


@dataclass(frozen=True)
class RetrievalProtocol(FineTuningProtocol):
    """Settings of contrastive fine-tuning that all models of a comparison share."""

    suite: ClassVar[str] = "retrieval"
    warmup_share: ClassVar[float] = 0.05
    """As in the paper's training script."""
    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3)
    """The grid; the paper's example for its smallest model is 3e-4."""
    epochs: int = 1
    batch_pairs: int = 1024
    """Pairs per step; the documents of the other pairs are a query's in-batch negatives."""
    mini_batch: int = 64
    """Pairs in memory at a time; the loss is over all pairs of the step."""
    max_length: int = 512
    """Maximum text length in tokens, special tokens included; longer texts are truncated."""
    held_out: int = 1000
    """Training pairs that select the learning rate and are never trained on; at most a tenth of all."""
    seeds: Sequence[int] = (1, 2, 3)
    batch_size: int = 32
    """Texts per batch when a trained model embeds them."""
    device: str = "cpu"

    def as_dict(self) -> dict[str, Any]:
        """Return everything that a result depends on."""
        return self.training_as_dict() | {"learning_rates": list(self.learning_rates), "seeds": list(self.seeds)}

    def training_as_dict(self) -> dict[str, Any]:
        """Return everything that a single training depends on.

        Settings that change only memory and speed are left out; the precision stands for the device.
        """
        training = self.training_settings()
        settings = asdict(self) | {
            "loss": f"multiple negatives ranking, cosine, scale {SCALE:g}, no text twice in a step",
            "schedule": training["schedule"],
            "pooling": {"encoder": POOLING[True], "decoder": POOLING[False]},
            "precision": training["precision"],
        }
        for name in ("learning_rates", "seeds", "mini_batch", "batch_size", "device"):
            del settings[name]
        return settings


def add_flags(add: Callable[..., Any]) -> None:
    """Add the flags of the protocol's fields with ``argparse``'s ``add_argument``."""
    flag = partial(RetrievalProtocol.add_flag, add)
    flag("--retrieval-learning-rates", above_zero, "LR", "grid, selected by nDCG@10 on held-out pairs", nargs="+")
    flag("--retrieval-epochs", positive, "N", "passes over the training pairs")
    flag("--retrieval-batch-pairs", positive, "N", "pairs per training step, which are each other's negatives")
    flag("--retrieval-mini-batch", positive, "N", "pairs of a step in memory at a time; does not change the result")
    flag("--retrieval-held-out", positive, "N", "training pairs that select the learning rate, at most a tenth of all")
    flag("--retrieval-max-length", token_length, "TOKENS", "longer texts are truncated")
