"""The tensors of a checkpoint, under names that do not depend on layout, precision or optimizer wrapper.

    embedding.word_embeddings.weight                              a weight, in fp32 if there is an fp32 copy of it
    optimizer.state.exp_avg.embedding.word_embeddings.weight      its first moment, in the weight's shape
    optimizer.state.exp_avg_sq.embedding.word_embeddings.weight   its second moment

megatron-core's optimizers (fp32, mixed precision, distributed) each nest their state differently and keep the fp32
weights under different names or not at all. Here their sharded tensors are flattened for saving and nested again for
loading, so that each optimizer can read the checkpoints of the others. Hyperparameters are not stored with the tensors;
the run's config has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, TypeAlias

import torch
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace, nested_values
from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject, ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from megatron_ettin.optim.core_state import set_nested_steps, single_optimizer

Entry: TypeAlias = ShardedTensor | ShardedTensorFactory
Entries: TypeAlias = dict[str, Entry]
"""Which part of which global tensor this rank holds, by the global tensor's name."""

OPTIMIZER_PREFIX = "optimizer."

_FP32_WEIGHT_PREFIXES = ("optimizer.state.param.", "optimizer.state.fp32_param.")
"""Prefixes of a weight's fp32 copy in the distributed and the mixed-precision optimizer."""

_FORMAT = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}


def weight_entries(model: MegatronModule) -> Entries:
    """Return the weights of this rank's stage, in the precision of the model."""
    entries = list(model.sharded_state_dict().values())
    assert all(isinstance(entry, Entry) for entry in entries), "a checkpoint has tensors and no extra states"
    return {entry.key: entry for entry in entries}


def training_entries(model: MegatronModule, optimizer: MegatronOptimizer) -> Entries:
    """Return weights and optimizer state for saving; collective over the data-parallel ranks."""
    weights = weight_entries(model)
    return weights | _by_name(_nested_state(optimizer, weights, is_loading=False))


def load_training_entries(
    model: MegatronModule,
    optimizer: MegatronOptimizer,
    steps: int,
    read: Callable[[Entries], dict[str, Any]],
) -> dict[str, Any]:
    """Fill weights and optimizer state, and return what was read.

    Args:
        model: this rank's stage.
        optimizer: its optimizer; its state is overwritten.
        steps: number of optimizer steps in the state to be read, for Adam's bias correction.
        read: takes the entries that this rank needs and returns the tensors by the same names (and may return more).
    """
    weights = weight_entries(model)
    nested = _nested_state(optimizer, weights, is_loading=True)
    loaded = read(weights | _by_name(nested))

    def take(leaf: Any) -> Any:
        if isinstance(leaf, LocalNonpersistentObject):
            return leaf.unwrap()
        return loaded[_name(leaf)] if isinstance(leaf, Entry) else leaf

    dict_list_map_inplace(take, nested)
    set_nested_steps(nested, steps)
    single = single_optimizer(optimizer)
    with _fp32_parameters_listed(single):
        single.load_state_dict(nested)
    copy_weights(weights, loaded)
    return loaded


def load_fresh_entries(
    model: MegatronModule, optimizer: MegatronOptimizer, read: Callable[[Entries], dict[str, Any]]
) -> None:
    """Fill the weights and their fp32 copies bit for bit; the optimizer is reset to step 0.

    Args:
        model: this rank's stage.
        optimizer: its optimizer.
        read: as for :func:`load_training_entries`; it gets the entries of weights alone.
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


def _nested_state(optimizer: MegatronOptimizer, weights: Entries, *, is_loading: bool) -> dict[str, Any]:
    # On loading, without is_loading the target tensors are missing and later losses are silently wrong.
    single = single_optimizer(optimizer)
    with _padding_counted(single), _fp32_parameters_listed(single):
        state = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=_FORMAT)
    assert isinstance(state, dict)
    return state


@contextmanager
def _padding_counted(optimizer: MegatronOptimizer) -> Iterator[None]:
    """Count the padding after each bucket of the distributed optimizer as content.

    megatron-core 0.16.1 joins the buckets of a buffer without that padding but locates each parameter with it: after
    the first padded bucket, all values would be those of other parameters. Such buckets come from a shared embedding on
    the last pipeline stage, and from overlapping the reduction of gradients.
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


@contextmanager
def _fp32_parameters_listed(optimizer: MegatronOptimizer) -> Iterator[None]:
    """List fp32 parameters of a bf16 model among those with an fp32 copy, each as its own copy.

    megatron-core 0.16.1 steps such parameters but leaves them out of the optimizer's state in a checkpoint, and pairs
    the others by position in groups that it expects to have one type.
    """
    if not isinstance(optimizer, Float16OptimizerWithFloat16Params):
        yield
        return
    listed = optimizer.float16_groups, optimizer.fp32_from_float16_groups
    weight_of = dict(zip(chain.from_iterable(listed[1]), chain.from_iterable(listed[0]), strict=True))
    copies = [group["params"] for group in optimizer.optimizer.param_groups]
    try:
        optimizer.fp32_from_float16_groups = copies
        optimizer.float16_groups = [[weight_of.get(copy, copy) for copy in group] for group in copies]
        yield
    finally:
        optimizer.float16_groups, optimizer.fp32_from_float16_groups = listed


def _by_name(nested: dict[str, Any]) -> Entries:
    entries = (leaf for leaf in nested_values(nested) if isinstance(leaf, Entry))
    return {_name(entry): replace(entry, key=_name(entry)) for entry in entries}


def _name(entry: Entry) -> str:
    """Return an entry's name in the checkpoint; the fp32 copy of a weight has the weight's name."""
    for prefix in _FP32_WEIGHT_PREFIXES:
        if entry.key.startswith(prefix):
            return str(entry.key.removeprefix(prefix))
    return str(entry.key)
