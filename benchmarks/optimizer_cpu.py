"""Time of one optimizer step on a CPU over the tensors of ettin-17m: StableAdamW, and torch's foreach and fused AdamW.

    python benchmarks/optimizer_cpu.py [--threads N] [--rounds N] [--save]

The optimizers alternate, so that other load affects all of them; the fastest round of each counts. One thread is timed
in CPU time, which excludes other processes, several in wall time. --save writes the table to
benchmarks/results/optimizer_cpu.md.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import clock_for, publish

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.optim.stable_adamw import StableAdamW

RESULTS = Path(__file__).parent / "results" / "optimizer_cpu.md"
OURS, FOREACH, FUSED = "StableAdamW (ours)", "torch AdamW, foreach", "torch AdamW, fused"
MODEL = ModelConfig(num_layers=7, hidden_size=256, ffn_hidden_size=384, num_attention_heads=4, vocab_size=50_368)
SETTINGS: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 3e-4}


def shapes(model: ModelConfig) -> list[tuple[int, ...]]:
    """Return the shapes of a model's parameters, fused as in the trainer, the tied matrix once."""
    hidden, ffn, vocabulary = model.hidden_size, model.ffn_hidden_size, model.vocab_size
    layer = [(hidden,), (3 * hidden, hidden), (hidden, hidden), (hidden,), (2 * ffn, hidden), (hidden, ffn)]
    layers = (layer * model.num_layers)[1:]  # the first layer has no norm before its attention
    return [(vocabulary, hidden), (hidden,), *layers, (hidden,), (hidden, hidden), (hidden,), (vocabulary,)]


def build(optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """Build an optimizer over random weights with random gradients."""
    tensors = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes(MODEL)]
    for tensor in tensors:
        tensor.grad = torch.randn_like(tensor)
    return optimizer(tensors)


def measure(rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the seconds of the fastest step of each optimizer."""
    optimizers = {
        OURS: build(lambda tensors: StableAdamW(tensors, **SETTINGS)),
        FOREACH: build(lambda tensors: torch.optim.AdamW(tensors, foreach=True, **SETTINGS)),
        FUSED: build(lambda tensors: torch.optim.AdamW(tensors, fused=True, **SETTINGS)),
    }
    best = dict.fromkeys(optimizers, float("inf"))
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            start = clock()
            optimizer.step()
            best[name] = min(best[name], clock() - start)
    return best


def table(best: dict[str, float], threads: int, rounds: int) -> str:
    """Return the measurements as Markdown."""
    values = sum(torch.Size(shape).numel() for shape in shapes(MODEL))
    _, how = clock_for(threads)
    rows = [f"| {name} | {1e3 * seconds:.1f} | {seconds / best[FUSED]:.2f} |" for name, seconds in best.items()]
    return "\n".join(
        [
            "# One optimizer step on a CPU, ettin-17m",
            "",
            f"{values:,} values in {len(shapes(MODEL))} tensors, fp32; {how}, the fastest of {rounds} rounds; "
            f"torch {torch.__version__}, {platform.machine()}. Made by `python benchmarks/optimizer_cpu.py --save`.",
            "",
            "| optimizer | ms | x fused |",
            "|---|---:|---:|",
            *rows,
            "",
            f"StableAdamW takes {best[OURS] / best[FOREACH]:.2f} x the time of foreach (goal: at most 1) and "
            f"{best[OURS] / best[FUSED]:.2f} x that of fused (goal: at most 3).",
            "",
        ]
    )


def main() -> None:
    """Measure, print, and save with --save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock, _ = clock_for(given.threads)
    publish(table(measure(given.rounds, clock), given.threads, given.rounds), RESULTS, save=given.save)


if __name__ == "__main__":
    main()
