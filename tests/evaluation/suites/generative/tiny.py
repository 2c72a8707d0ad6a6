"""Local files for the generative suite, and reference scores by transformers, one text at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from megatron_ettin.evaluation.suite import TaskRun
from tests.evaluation.tiny_models import tokenizer

CLS, SEP, PAD, MASK = 1, 2, 3, 4

_FORMS = [
    ("one", "syntax", "the quick brown fox jumps", "the quick fox brown jumps"),
    ("one", "syntax", "the small cat watches", "the small watches cat"),
    ("two", "meaning", "over the lazy dog", "over the lazy sill"),
    ("two", "meaning", "from the window", "from the warm jumps"),
    ("two", "meaning", "the dog", "dog the"),
]
PAIRS = [dict(zip(("uid", "field", "sentence_good", "sentence_bad"), form, strict=True)) for form in _FORMS]
CHOICES = [
    {"goal": "the fox", "sol1": "jumps over the dog", "sol2": "the window sill", "label": 0},
    {"goal": "watches", "sol1": "the quick", "sol2": "the lazy dog and the cat", "label": 1},
    {"goal": "and the", "sol1": "small cat", "sol2": "warm", "label": 1},
    {"goal": "lazy", "sol1": "dog", "sol2": "fox", "label": 0},
]


class NoCache:
    """A part cache that stores nothing."""

    def get_or_compute(self, part: str, compute: Callable[[], Any]) -> Any:
        return json.loads(json.dumps(compute()))


def silent_run() -> TaskRun:
    return TaskRun(NoCache(), lambda what, done, total: None, Path())


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokens_of(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False))


def log_prob(model: Any, tokens: Sequence[int], position: int, token: int) -> float:
    """Return a token's log-probability by transformers' forward pass, with softmax in float64."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(tokens)])).logits[0, position]
    return float(torch.log_softmax(logits.double(), dim=-1)[token])


def left_to_right(model: Any, context: Sequence[int], continuation: Sequence[int], future_masks: int = 0) -> float:
    """Return an encoder's left-to-right log-likelihood of a continuation, one token at a time."""
    text, total = [*context, *continuation], 0.0
    for place in range(len(context), len(text)):
        tokens = [CLS, *text[:place], *([MASK] * (1 + future_masks)), SEP]
        total += log_prob(model, tokens, 1 + place, text[place])
    return total


def pseudo(model: Any, context: Sequence[int], continuation: Sequence[int]) -> float:
    """Return an encoder's pseudo-log-likelihood of a continuation, one token at a time."""
    text, total = [*context, *continuation], 0.0
    for place in range(len(context), len(text)):
        tokens = [CLS, *text, SEP]
        tokens[1 + place] = MASK
        total += log_prob(model, tokens, 1 + place, text[place])
    return total


def causal(model: Any, context: Sequence[int], continuation: Sequence[int]) -> float:
    """Return a decoder's log-likelihood of a continuation after [CLS] and the context."""
    text = [CLS, *context, *continuation]
    with torch.inference_mode():
        log_probs = torch.log_softmax(model(input_ids=torch.tensor([text])).logits[0].double(), dim=-1)
    start = 1 + len(context)
    return sum(float(log_probs[place - 1, text[place]]) for place in range(start, len(text)))
