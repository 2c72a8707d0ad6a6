"""Synthetic gradients of full parameters, and steps of the trainer's optimizer on them under any layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.helpers.runs import TINY, tiny_run
from tests.helpers.shards import Shard, rank_shards

VOCABULARY = 120
"""Not a multiple of 16: on two tensor-parallel ranks the vocabulary has padding rows, on one it has none."""

RATE, DECAY, BETA1, BETA2, EPSILON = 3e-3, 0.1, 0.9, 0.98, 1e-6
SETTINGS: dict[str, Any] = {
    "lr": RATE,
    "weight_decay": DECAY,
    "adam_beta1": BETA1,
    "adam_beta2": BETA2,
    "adam_eps": EPSILON,
    "clip_grad": 0.0,
    "model": replace(TINY, vocab_size=VOCABULARY),
}


@dataclass(frozen=True)
class Result:
    """A rank's part of all parameters, before and after."""

    before: list[Shard]
    after: list[Shard]


def rate(step: int) -> float:
    """A learning rate that varies up to the peak."""
    return RATE * (1 + step % 4) / 4


def gradient(name: str, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of a full parameter, float32, the same for ranks and references.

    Steps differ in size, the halves of a parameter grow at different steps, and some values are below epsilon: the mean
    over a part of a parameter differs from the mean over all of it.
    """
    rng = np.random.default_rng([step, *name.encode()])
    values = rng.normal(size=shape) * (8.0 if step % 5 == 3 else 1.0)
    values[: shape[0] // 2] *= 30.0 if step % 3 == 1 else 0.1
    values[shape[0] // 3 : shape[0] // 2] *= 1e-7
    return values.astype(np.float32)


def run_steps(overrides: dict[str, Any], steps: int, *, local: bool = False) -> Result:
    """Apply ``steps`` synthetic gradients on a rank; ``local`` takes means over the rank's own part only."""
    from megatron_ettin.optim.stable_adamw import local_means
    from tests.helpers.training import start_training

    training = start_training(tiny_run("mlm", **{**SETTINGS, **overrides}))
    if local:
        training.optimizer.optimizer.means = local_means
    before = rank_shards(training.model)
    for step in range(steps):
        training.wrapped.zero_grad_buffer()
        for name, part, values in _gradient_parts(training.model):
            values.copy_(_part_of(padded_gradient(name, step, part.global_shape), part, values))
        for group in training.optimizer.param_groups:
            group["lr"] = rate(step)
        training.optimizer.step()
    return Result(before, rank_shards(training.model))


def padded_gradient(name: str, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient, with zeros for the padding rows of a parameter."""
    if not name.startswith(("embedding.word", "output_layer")):
        return gradient(name, step, shape)
    padded = np.zeros(shape, dtype=np.float32)
    padded[:VOCABULARY] = gradient(name, step, (VOCABULARY, *shape[1:]))
    return padded


def _gradient_parts(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (global name, shard, its values in the gradient buffer) for each part of a parameter on this rank."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    for entry in model.sharded_state_dict().values():
        place = replace(entry, data=entry.data.main_grad)
        for part in place.build() if isinstance(place, ShardedTensorFactory) else [place]:
            yield part.key, part, part.data


def _part_of(full: np.ndarray, part: Any, values: Any) -> Any:
    import torch

    slices = tuple(slice(o, o + n) for o, n in zip(part.global_offset, values.shape, strict=True))
    return torch.from_numpy(full[slices])
