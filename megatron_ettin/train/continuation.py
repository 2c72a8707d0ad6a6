"""How a run goes on from a checkpoint: the same phase, the next one, or another life of the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import TrainingConfig


class Continuation(Enum):
    """What is taken from the checkpoint besides its weights."""

    RESUME = "everything: counters, optimizer and random states"
    NEXT_PHASE = "the optimizer's state; steps, tokens and data begin anew"
    CROSS = "nothing; optimizer, steps, tokens and data begin anew"


def continuation(described: Mapping[str, Any], run: RunConfig) -> Continuation:
    """Return how ``run`` goes on from the checkpoint that a ``run.json`` describes.

    Objective and phase of ``run`` have been completed from the checkpoint, so that they differ where the user said so.
    """
    objective, phase = trained_as(described)
    now = run.training
    if (now.objective, now.phase) == (objective, phase):
        return Continuation.RESUME
    if now.phase == "cross":
        return Continuation.CROSS
    return Continuation.NEXT_PHASE


def trained_as(described: Mapping[str, Any]) -> tuple[str, str]:
    """Return objective and phase of a checkpoint."""
    training = described["config"].get("training", {})
    default = TrainingConfig()
    return training.get("objective", default.objective), training.get("phase", default.phase)
