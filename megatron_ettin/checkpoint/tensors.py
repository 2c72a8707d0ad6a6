"""The tensors of a checkpoint under names that do not depend on layout, precision or kind of optimizer.

    embedding.word_embeddings.weight                              a weight, in fp32 wherever there is an fp32 copy of it
    optimizer.state.exp_avg.embedding.word_embeddings.weight      its first moment, in the weight's shape
    optimizer.state.exp_avg_sq.embedding.word_embeddings.weight   its second moment

megatron-core's optimizers (fp32, mixed precision, distributed) each nest their state differently and keep the fp32
weights under different names or not at all. Here their sharded tensors are taken out of the nesting, so that a
checkpoint written by one can be read by any other, and put back on the way in. Hyperparameters are not part of it: the
run's config decides them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace, nested_values
from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject, ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

Entry: TypeAlias = ShardedTensor | ShardedTensorFactory
Entries: TypeAlias = dict[str, Entry]
"""Which part of which global tensor this rank holds, by the global tensor's name."""

OPTIMIZER_PREFIX = "optimizer."

_FP32_WEIGHT_PREFIXES = ("optimizer.state.param.", "optimizer.state.fp32_param.")
"""What the distributed and the mixed-precision optimizer put before the name of a weight's fp32 copy."""

_FORMAT = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}


def weight_entries(model: MegatronModule) -> Entries:
    """Return this stage's weights as they lie in the model."""
    entries = list(model.sharded_state_dict().values())
    assert all(isinstance(entry, Entry) for entry in entries), "a checkpoint holds tensors, no extra states"
    return {entry.key: entry for entry in entries}


def training_entries(model: MegatronModule, optimizer: MegatronOptimizer) -> Entries:
    """Return weights and optimizer state for saving; collective over the data-parallel ranks."""
    weights = weight_entries(model)
    return weights | _by_name(_nested_state(optimizer, weights, is_loading=False))


def load_training_entries(
    model: MegatronModule,
    optimizer: MegatronOptimizer,
    optimizer_steps: int,
    read: Callable[[Entries], dict[str, Any]],
) -> dict[str, Any]:
    """Fill weights and optimizer state, and return what was read.

    Args:
        model: this rank's stage.
        optimizer: its optimizer; what state it holds is overwritten.
        optimizer_steps: how many steps the state to be read has made (Adam's bias correction counts them).
        read: given what this rank needs, returns the tensors by the same names (and may return more).
    """
    _allocate_state(optimizer)
    weights = weight_entries(model)
    nested = _nested_state(optimizer, weights, is_loading=True)
    loaded = read(weights | _by_name(nested))

    def take(leaf: Any) -> Any:
        if isinstance(leaf, LocalNonpersistentObject):
            return leaf.unwrap()
        return loaded[_name(leaf)] if isinstance(leaf, Entry) else leaf

    dict_list_map_inplace(take, nested)
    _set_steps(nested, optimizer_steps, per_tensor=isinstance(_inner(optimizer), torch.optim.AdamW))
    _load_nested_state(_single(optimizer), nested)
    copy_weights(weights, loaded)
    return loaded


def load_fresh_entries(
    model: MegatronModule, optimizer: MegatronOptimizer, read: Callable[[Entries], dict[str, Any]]
) -> None:
    """Fill the weights, and their fp32 copies to the bit; the optimizer is as one that has made no step.

    Args:
        model: this rank's stage.
        optimizer: its optimizer.
        read: as for :func:`load_training_entries`; asked for weights alone.
    """

    def read_weights(wanted: Entries) -> dict[str, Any]:
        moments = {name for name in wanted if name.startswith(OPTIMIZER_PREFIX)}
        weights = {name: entry for name, entry in wanted.items() if name not in moments}
        return read(weights) | {name: torch.zeros_like(wanted[name].data) for name in moments}

    load_training_entries(model, optimizer, 0, read_weights)


@torch.no_grad()
def copy_weights(weights: Entries, loaded: dict[str, Tensor]) -> None:
    """Copy loaded tensors into the model's weights, rounding them to the model's precision."""
    for name, entry in weights.items():
        entry.data.copy_(loaded[name])


def optimizer_steps(optimizer: MegatronOptimizer) -> int:
    """Return how many steps an optimizer's state has made: torch counts them per tensor, fused kernels per group."""
    inner = _inner(optimizer)
    counts = [state["step"] for state in inner.state.values() if "step" in state]
    counts += [group["step"] for group in inner.param_groups if "step" in group]
    return int(max(counts, default=0))


def _nested_state(optimizer: MegatronOptimizer, weights: Entries, *, is_loading: bool) -> dict[str, Any]:
    # Without is_loading the tensors to be read into are missing, and later losses are silently wrong.
    with _padding_counted(_single(optimizer)):
        state = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=_FORMAT)
    assert isinstance(state, dict)
    return state


@contextmanager
def _padding_counted(optimizer: MegatronOptimizer) -> Iterator[None]:
    """Count the padding behind each bucket of the distributed optimizer as content.

    megatron-core 0.16.1 joins the buckets of a buffer without that padding, and then looks for each parameter where it
    lies with it: all values after the first padded bucket would be those of other parameters. A shared embedding on the
    last pipeline stage makes such buckets, and overlapping the sum of gradients does.
    """
    buffers = optimizer.buffers if isinstance(optimizer, DistributedOptimizer) else []
    sized = [(part, part.numel_unpadded) for buffer in buffers for part in (buffer, *buffer.buckets)]
    try:
        for buffer in buffers:
            buffer.numel_unpadded = buffer.numel
            for bucket in buffer.buckets:
                bucket.numel_unpadded = bucket.grad_data.numel()
        yield
    finally:
        for part, size in sized:
            part.numel_unpadded = size


def _by_name(nested: dict[str, Any]) -> Entries:
    entries = (leaf for leaf in nested_values(nested) if isinstance(leaf, Entry))
    return {_name(entry): replace(entry, key=_name(entry)) for entry in entries}


def _name(entry: Entry) -> str:
    """Return an entry's name in the checkpoint: an fp32 copy of a weight takes the weight's own."""
    for prefix in _FP32_WEIGHT_PREFIXES:
        if entry.key.startswith(prefix):
            return str(entry.key.removeprefix(prefix))
    return str(entry.key)


def _single(optimizer: MegatronOptimizer) -> MegatronOptimizer:
    """Return the one optimizer inside megatron-core's chain (it has more with experts, which we have not)."""
    if not isinstance(optimizer, ChainedOptimizer):
        return optimizer
    (single,) = optimizer.chained_optimizers
    return single


def _inner(optimizer: MegatronOptimizer) -> torch.optim.Optimizer:
    inner = _single(optimizer).optimizer
    assert isinstance(inner, torch.optim.Optimizer)
    return inner


def _allocate_state(optimizer: MegatronOptimizer) -> None:
    """Give an optimizer that has made no step the state of one, so that there is something to read into."""
    single, inner = _single(optimizer), _inner(optimizer)
    single.init_state_fn(inner, single.config)
    if isinstance(inner, torch.optim.AdamW):
        for state in inner.state.values():
            state.setdefault("step", torch.tensor(0.0))


def _set_steps(nested: dict[str, Any], steps: int, *, per_tensor: bool) -> None:
    state = nested.get("optimizer", nested)
    if per_tensor and "state" in state:
        state["state"]["common_step"] = torch.tensor(float(steps))
        return
    for group in state["param_groups"]:
        group["step"] = steps


def _load_nested_state(optimizer: MegatronOptimizer, nested: dict[str, Any]) -> None:
    if not isinstance(optimizer, DistributedOptimizer):
        optimizer.load_state_dict(nested)
        return
    # megatron-core 0.16.1 stumbles over torch's AdamW, which keeps a step beside each tensor's moments: it looks for
    # the step in param_state, where there is none, and lets all tensors share one count, which each then advances.
    param_state = nested.pop("param_state")
    optimizer.load_state_dict(nested)
    state = optimizer.optimizer.state
    steps = {parameter: state[parameter].pop("step") for parameter in state if "step" in state[parameter]}
    optimizer.load_parameter_state_from_fully_reshardable(param_state)
    for parameter, step in steps.items():
        state[parameter]["step"] = step.clone()
