"""Time of an encoder's log-likelihoods: batched scoring against one forward pass of transformers per token.

Encoders with random weights, in published sizes and one of 2 million parameters, score requests of random tokens with
the lengths of two kinds of task: pairs of sentences that differ in one token (BLiMP), and a question with two answers
that differ in one token (PIQA). Both methods alternate on the same requests; the slow one scores a subset, since its
time per token is constant. Prints a table; --save also writes benchmarks/results/encoder_scorer_cpu.md.

    python benchmarks/encoder_scorer.py [--threads 2] [--sizes nano 17m] [--rounds 3] [--requests 400] [--save]
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import clock_for, publish

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_ettin.evaluation.suites.generative.masked_inputs import MaskedInputBuilder  # noqa: E402
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer, Target  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "encoder_scorer_cpu.md"
SHAPES = {
    "nano": {"vocab_size": 8192, "hidden_size": 128, "intermediate_size": 192, "layers": 6, "heads": 4},
    "17m": {"vocab_size": 50368, "hidden_size": 256, "intermediate_size": 384, "layers": 7, "heads": 4},
    "68m": {"vocab_size": 50368, "hidden_size": 512, "intermediate_size": 768, "layers": 19, "heads": 8},
}
"""Layers, heads and widths of the published 17m and 68m models, and of the 2m model of the nano runs."""

BUILDER = MaskedInputBuilder(cls=1, sep=2, mask=4, max_positions=512)
PAD = 3
GOAL_RATIO, ALLOWED_DIFFERENCE = 10, 1e-5

Request = tuple[list[int], list[int]]
"""Context and continuation."""


@dataclass(frozen=True)
class Measurement:
    """One model and kind of task; times are medians over the rounds, per scored token."""

    size: str
    task: str
    tokens: int
    tokens_seen: float
    """Mean length of the input for one scored token."""
    slow_ms: float
    fast_ms: float
    difference: float
    """Largest difference between the log-likelihoods of a request by the two methods."""


def build_model(size: str) -> Any:
    """Return an encoder with random weights."""
    import transformers

    shape = SHAPES[size]
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["hidden_size"], intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], cls_token_id=1, bos_token_id=1,
        sep_token_id=2, eos_token_id=2, pad_token_id=PAD,
    )  # fmt: skip
    model = transformers.ModernBertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights give flat logits, which would hide differences
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def draw_requests(task: str, count: int) -> list[Request]:
    """Return pairs of requests with a common context, whose continuations differ in one token."""
    generator = random.Random(0)
    contexts, endings = {"pairs": ((0, 0), (6, 14)), "choices": ((8, 24), (5, 45))}[task]

    def draw(bounds: tuple[int, int]) -> list[int]:
        return [generator.randrange(10, 8000) for _ in range(generator.randint(*bounds))]

    requests: list[Request] = []
    for _ in range(count // 2):
        context, first = draw(contexts), draw(endings)
        second = list(first)
        second[generator.randrange(len(second))] = generator.randrange(10, 8000)
        requests += [(context, first), (context, second)]
    return requests


def targets_of(requests: Sequence[Request]) -> list[Target]:
    """Return the masked inputs of these requests, each with its token to score."""
    return [
        (masked, token)
        for context, ending in requests
        for masked, token in zip(BUILDER.left_to_right(context, ending), ending, strict=True)
    ]


def score_one_at_a_time(model: Any, targets: Sequence[Target]) -> list[float]:
    """Return each token's log-probability, with a separate forward pass for each."""
    scores = []
    with torch.inference_mode():
        for masked, token in targets:
            logits_V = model(input_ids=torch.tensor([masked.tokens])).logits[0, masked.position]
            scores.append(float(logits_V.log_softmax(dim=-1)[token]))
    return scores


def measure(size: str, task: str, num_requests: int, rounds: int, threads: int) -> Measurement:
    """Score the same requests with both methods, alternating."""
    clock, _ = clock_for(threads)
    model = build_model(size)
    scorer = MaskedScorer(model, PAD, tokens_per_batch=2048)
    requests = draw_requests(task, num_requests)
    subset = requests[: max(2, num_requests // 20)]
    targets, few_targets = targets_of(requests), targets_of(subset)
    scorer.score(few_targets)
    slow_s, fast_s = [], []
    for _ in range(rounds):
        start = clock()
        slow = score_one_at_a_time(model, few_targets)
        between = clock()
        fast = [score.log_prob for score in scorer.score(targets)]
        slow_s.append((between - start) / len(few_targets))
        fast_s.append((clock() - between) / len(targets))
    difference, place = 0.0, 0
    for _, ending in subset:
        part = slice(place, place := place + len(ending))
        difference = max(difference, abs(sum(slow[part]) - sum(fast[part])))
    shown = sum(len(masked.tokens) for masked, _ in targets) / len(targets)
    return Measurement(size, task, len(targets), shown, 1e3 * median(slow_s), 1e3 * median(fast_s), difference)


def table(measurements: Sequence[Measurement], threads: int, rounds: int) -> str:
    """Return the measurements as Markdown."""
    _, how = clock_for(threads)
    rows = [
        f"| {m.size} | {m.task} | {m.tokens:,} | {m.tokens_seen:.0f} | {m.slow_ms:.2f} | {m.fast_ms:.3f} | "
        f"{m.slow_ms / m.fast_ms:.1f} | {m.difference:.0e} |"
        for m in measurements
    ]
    return "\n".join(
        [
            "# Log-likelihoods by an encoder on a CPU",
            "",
            "Left to right: a [MASK] in place of the scored token, and no text after it. fp32; "
            f"{how}, median of {rounds} rounds; torch {torch.__version__}, {platform.machine()}. Made by "
            f"`python benchmarks/encoder_scorer.py --threads {threads} --save`.",
            "",
            "| model | task | scored tokens | input tokens for one | ms a token, one at a time | batched | x | "
            "difference |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"The goals are {GOAL_RATIO} x and differences of at most {ALLOWED_DIFFERENCE:.0e} nats between the "
            "log-likelihoods of a request. Minimal pairs share their prefixes, which are computed once. In long texts "
            "most of the time is spent in the layers, where batching only saves the overhead of single passes.",
            "",
        ]
    )


def main() -> None:
    """Measure, print, and save with --save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["nano", "17m"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    measurements = [
        measure(size, task, given.requests, given.rounds, given.threads)
        for size in given.sizes
        for task in ("pairs", "choices")
    ]
    publish(table(measurements, given.threads, given.rounds), RESULTS, save=given.save)


if __name__ == "__main__":
    main()
