"""Training transformers' ModernBERT classes on the same chunks of text, as the peer of train_step_gpu.py."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from peer_model import build_peer

from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.planning.model_size import training_flops
from megatron_ettin.train.datasets import build_training_rows, open_corpus

MICRO_BATCHES = 4
IGNORED = -100


def peer_step(config: RunConfig, steps: int, profile: str) -> dict[str, Any]:
    """Time training steps of transformers' class of the run's shape: compiled, bf16, sdpa, fused AdamW.

    The attention windows are those that the classes derive from the shape.
    """
    model = build_peer(config, sparse=False).cuda().to(torch.bfloat16).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)
    batches = padded_batches(config)
    seconds, tokens, flops, losses = [], [], [], []
    for step in range(2 + steps):
        micro_batches = [batches[(step * MICRO_BATCHES + i) % len(batches)] for i in range(MICRO_BATCHES)]
        torch.cuda.synchronize()
        started = time.perf_counter()
        for batch in micro_batches:
            inputs = {name: torch.from_numpy(batch[name]).cuda() for name in ("input_ids", "attention_mask", "labels")}
            loss = compiled(**inputs).loss / MICRO_BATCHES
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() * MICRO_BATCHES)
        if step >= 2:
            seconds.append(time.perf_counter() - started)
            lengths = [int(n) for batch in micro_batches for n in batch["attention_mask"].sum(1)]
            scored = sum(int((batch["labels"] != IGNORED).sum()) for batch in micro_batches)
            tokens.append(sum(lengths))
            mask_kind = mask_kind_of(config.training.objective)
            flops.append(training_flops(config.model, mask_kind, lengths, scored))
    return {
        "tokens_per_second": statistics.median(count / took for count, took in zip(tokens, seconds, strict=True)),
        "model_flops_per_second": statistics.median(work / took for work, took in zip(flops, seconds, strict=True)),
        "seconds_per_step": statistics.median(seconds),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
        "losses": losses,
    }


def padded_batches(config: RunConfig, number: int = 8) -> list[dict[str, np.ndarray]]:
    """Return micro-batches of chunks, each a row padded to the sequence length; the masking rate is the run's."""
    tokenizer = TokenizerFiles.load(config.data.tokenizer_model)
    rows = build_training_rows(config, open_corpus(config), tokenizer)
    size, length = config.training.micro_batch_size // 2 or 1, config.data.seq_length
    chunks = [chunk for sample in range(2 * size * number) for chunk in rows.row(sample)]
    rng = np.random.default_rng(0)
    batches = []
    for first in range(0, size * number, size):
        tokens = np.full((size, length), tokenizer.pad_id, dtype=np.int64)
        mask = np.zeros((size, length), dtype=np.int64)
        for row, chunk in enumerate(chunks[first : first + size]):
            ids = [tokenizer.cls_id, *chunk.tokens[: length - 2], tokenizer.sep_id]
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        labels = np.where(mask == 1, tokens, IGNORED)
        if config.training.objective != "clm":
            chosen = (mask == 1) & (rng.random(tokens.shape) < config.data.mlm_probability)
            labels = np.where(chosen, tokens, IGNORED)
            tokens = np.where(chosen, tokenizer.mask_id, tokens)
        batches.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return batches
