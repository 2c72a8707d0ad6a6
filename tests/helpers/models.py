"""Build one rank's model inside a worker and run documents through it."""

from __future__ import annotations

from typing import Any

import numpy as np

from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from tests.helpers.batches import packed_batch


def build_stage(config: RunConfig) -> Any:
    """Join the world and return this rank's EttinModel with freshly drawn weights, in evaluation mode."""
    from megatron_ettin.model.core_config import build_core_config
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process
    from megatron_ettin.train.build import build_model

    device = choose_device("cpu")
    ranks = start_process(config, device)
    return build_model(config, build_core_config(config), mask_kind_of(config.training.objective), device, ranks).eval()


def packed_logits(model: Any, chunks: list[np.ndarray]) -> np.ndarray:
    """Return logits [T, V] of all tokens of the packed chunks, over the true vocabulary (one rank holds the model)."""
    import torch

    from megatron_ettin.model.packed_layout import PackedLayout

    batch = packed_batch(chunks, causal=True)
    layout = PackedLayout.build(
        torch.from_numpy(batch.cu_seqlens), torch.from_numpy(batch.positions_T), tuple(map(len, chunks))
    )
    tokens = torch.from_numpy(batch.tokens_T)
    with torch.no_grad():
        logits = model(tokens, layout, torch.arange(len(tokens)))
    return logits[:, : model.vocab_size].float().numpy()
