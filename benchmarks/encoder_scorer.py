"""An encoder's log-likelihoods in batches, beside one forward pass of transformers' model per token.

Encoders of random weights in published sizes, and one of 2 million parameters, score requests of random tokens in the
lengths of two kinds of task: pairs of sentences that differ in one token (BLiMP), and a question with two answers that
do (PIQA). Both ways take turns on the same requests, the slow one on a part of them, as its time per token stays the
same. Prints a table, and with --save writes benchmarks/results/encoder_scorer_cpu.md.

    python benchmarks/encoder_scorer.py [--threads 2] [--sizes nano 17m] [--rounds 3] [--requests 400] [--save]
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_ettin.evaluation.suites.generative.masked_frames import Frame, Hole  # noqa: E402
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "encoder_scorer_cpu.md"
SHAPES = {
    "nano": {"vocab_size": 8192, "hidden_size": 128, "intermediate_size": 192, "layers": 6, "heads": 4},
    "17m": {"vocab_size": 50368, "hidden_size": 256, "intermediate_size": 384, "layers": 7, "heads": 4},
    "68m": {"vocab_size": 50368, "hidden_size": 512, "intermediate_size": 768, "layers": 19, "heads": 8},
}
"""Layers, heads and widths of the published 17m and 68m, and of a 2m model as the nano runs train."""

FRAME = Frame(cls=1, sep=2, mask=4, max_positions=512)
PAD = 3
WANTED_RATIO, ALLOWED_DIFFERENCE = 10, 1e-5

Request = tuple[list[int], list[int]]
"""Context and continuation."""


@dataclass(frozen=True)
class Measurement:
    """One model and kind of task. Times are medians of the rounds, per token scored."""

    size: str
    task: str
    tokens: int
    tokens_seen: float
    """Mean length of what the model is shown for one token."""
    slow_ms: float
    fast_ms: float
    difference: float
    """Largest between two log-likelihoods of a request."""


def build_model(size: str) -> Any:
    """Return an encoder of random weights."""
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
        for parameter in model.parameters():  # fresh weights give flat logits, in which differences would not show
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def draw_requests(task: str, count: int) -> list[Request]:
    """Return twos of requests with one context, whose continuations differ in one token."""
    drawn = random.Random(0)
    contexts, endings = {"pairs": ((0, 0), (6, 14)), "choices": ((8, 24), (5, 45))}[task]

    def some(bounds: tuple[int, int]) -> list[int]:
        return [drawn.randrange(10, 8000) for _ in range(drawn.randint(*bounds))]

    found: list[Request] = []
    for _ in range(count // 2):
        context, first = some(contexts), some(endings)
        second = list(first)
        second[drawn.randrange(len(second))] = drawn.randrange(10, 8000)
        found += [(context, first), (context, second)]
    return found


def holes_of(requests: Sequence[Request]) -> list[tuple[Hole, int]]:
    """Return what is asked of the model for these requests."""
    return [
        (hole, token)
        for context, ending in requests
        for hole, token in zip(FRAME.left_to_right(context, ending), ending, strict=True)
    ]


def score_one_at_a_time(model: Any, asked: Sequence[tuple[Hole, int]]) -> list[float]:
    """Return each token's log-probability from a forward pass of its own."""
    found = []
    with torch.inference_mode():
        for hole, token in asked:
            logits_V = model(input_ids=torch.tensor([hole.tokens])).logits[0, hole.position]
            found.append(float(logits_V.log_softmax(dim=-1)[token]))
    return found


def measure(size: str, task: str, num_requests: int, rounds: int, threads: int) -> Measurement:
    """Score the same requests in both ways, turn and turn about."""
    clock = time.process_time if threads == 1 else time.perf_counter
    model = build_model(size)
    scorer = MaskedScorer(model, PAD, tokens_per_batch=2048)
    requests = draw_requests(task, num_requests)
    some = requests[: max(2, num_requests // 20)]
    asked, asked_slowly = holes_of(requests), holes_of(some)
    scorer.score(asked_slowly)
    slow_s, fast_s = [], []
    for _ in range(rounds):
        start = clock()
        slow = score_one_at_a_time(model, asked_slowly)
        between = clock()
        fast = [score.log_prob for score in scorer.score(asked)]
        slow_s.append((between - start) / len(asked_slowly))
        fast_s.append((clock() - between) / len(asked))
    difference, place = 0.0, 0
    for _, ending in some:
        part = slice(place, place := place + len(ending))
        difference = max(difference, abs(sum(slow[part]) - sum(fast[part])))
    shown = sum(len(hole.tokens) for hole, _ in asked) / len(asked)
    return Measurement(size, task, len(asked), shown, 1e3 * median(slow_s), 1e3 * median(fast_s), difference)


def table(found: Sequence[Measurement], threads: int, rounds: int) -> str:
    """Return the measurements as Markdown."""
    how = f"{threads} threads, wall time" if threads > 1 else "1 thread, CPU time"
    rows = [
        f"| {m.size} | {m.task} | {m.tokens:,} | {m.tokens_seen:.0f} | {m.slow_ms:.2f} | {m.fast_ms:.3f} | "
        f"{m.slow_ms / m.fast_ms:.1f} | {m.difference:.0e} |"
        for m in found
    ]
    return "\n".join(
        [
            "# Log-likelihoods by an encoder on a CPU",
            "",
            "Left to right: a [MASK] at the token that is scored, and nothing of the text after it. fp32; "
            f"{how}, median of {rounds} rounds; torch {torch.__version__}, {platform.machine()}. Made by "
            f"`python benchmarks/encoder_scorer.py --threads {threads} --save`.",
            "",
            "| model | task | tokens scored | tokens shown for one | ms a token, one at a time | batched | x | "
            "difference |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"Wanted are {WANTED_RATIO} x and differences of at most {ALLOWED_DIFFERENCE:.0e} nats between a request's "
            "log-likelihoods. Minimal pairs share their beginnings, which are run once. In long texts the model's body "
            "weighs most, of which a batch spares nothing but what single passes waste.",
            "",
        ]
    )


def main() -> None:
    """Measure, print and perhaps save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["nano", "17m"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = [
        measure(size, task, given.requests, given.rounds, given.threads)
        for size in given.sizes
        for task in ("pairs", "choices")
    ]
    told = table(found, given.threads, given.rounds)
    print(told)
    if given.save:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(told)


if __name__ == "__main__":
    main()
