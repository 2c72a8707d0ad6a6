"""Initial weights as a function of the seed and each parameter's global name.

Every rank draws the full tensor of a parameter from a generator seeded by its name and keeps its shard, so that all
layouts start from the same weights, and so do the encoder and the decoder of a pair.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from torch import Tensor, nn

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.model.ettin import EttinModel


@torch.no_grad()
def initialize_weights(model: EttinModel, shape: ModelConfig, seed: int) -> None:
    """Fill the model's parameters in place.

    The scheme is the authors' ``full_megatron``: a truncated normal of standard deviation ``init_std``, divided by
    sqrt(2 * layers) for the two projections that write to the residual stream; norms are 1; the output bias is
    PyTorch's uniform(-1/sqrt(H), 1/sqrt(H)). Padded vocabulary rows are 0.
    """
    for shard in _shards(model):
        full = draw_parameter(shard.key, _true_shape(shard, shape), shape, seed)
        target = shard.data
        assert target is not None
        rows = slice(shard.global_offset[0], shard.global_offset[0] + target.size(0))
        part = full[rows]
        for axis in range(1, target.ndim):
            part = part.narrow(axis, shard.global_offset[axis], target.size(axis))
        target.zero_()
        target[: part.size(0)].copy_(part)


def draw_parameter(name: str, size: tuple[int, ...], shape: ModelConfig, seed: int) -> Tensor:
    """Return the full initial tensor of the parameter ``name``, fp32 on the CPU."""
    tensor = torch.empty(size)
    if len(size) == 1 and name.endswith("weight"):
        return tensor.fill_(1.0)
    generator = torch.Generator().manual_seed(_seed_of(name, seed))
    if name.endswith("output_layer.bias"):
        bound = 1.0 / math.sqrt(shape.hidden_size)
        return tensor.uniform_(-bound, bound, generator=generator)
    std = shape.init_std
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        std /= math.sqrt(2.0 * shape.num_layers)
    cut = shape.init_cutoff * std
    return nn.init.trunc_normal_(tensor, std=std, a=-cut, b=cut, generator=generator)


def _seed_of(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _true_shape(shard: ShardedTensor, shape: ModelConfig) -> tuple[int, ...]:
    size = tuple(shard.global_shape)
    if shard.key in ("embedding.word_embeddings.weight", "output_layer.weight", "output_layer.bias"):
        return (shape.vocab_size, *size[1:])
    return size


def _shards(model: EttinModel) -> Iterator[ShardedTensor]:
    """Yield this rank's shard of every parameter; the gated MLP's first matrix is yielded as its two halves."""
    for entry in model.sharded_state_dict().values():
        if isinstance(entry, ShardedTensor):
            yield entry
        elif isinstance(entry, ShardedTensorFactory):
            yield from entry.build()
