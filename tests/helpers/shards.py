"""Full parameters from the shards of all ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

Shard = tuple[str, tuple[int, ...], np.ndarray]


def rank_shards(model: Any) -> list[Shard]:
    """Return (global name, global offset, values) of every parameter shard of this rank."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    shards = []
    for entry in model.sharded_state_dict().values():
        for shard in entry.build() if isinstance(entry, ShardedTensorFactory) else [entry]:
            shards.append((shard.key, tuple(shard.global_offset), shard.data.detach().float().numpy().copy()))
    return shards


def assemble(per_rank: list[list[Shard]]) -> dict[str, np.ndarray]:
    """Return the full parameters by name."""
    sizes: dict[str, np.ndarray] = {}
    for shards in per_rank:
        for name, offset, values in shards:
            end = np.array(offset) + values.shape
            sizes[name] = np.maximum(sizes.get(name, end), end)
    full = {name: np.full(size, np.nan, dtype=np.float32) for name, size in sizes.items()}
    for shards in per_rank:
        for name, offset, values in shards:
            full[name][tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))] = values
    return full
