"""Tiny models of both kinds with a vocabulary of words, and pairs of texts that share rare words."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from megatron_ettin.evaluation.models.subject import Subject, open_subject
from megatron_ettin.evaluation.suite import SuiteOptions, TaskRun
from megatron_ettin.evaluation.suites.retrieval.suite import SUITE, LocalRetrieval
from tests.evaluation.suites.classification.tiny import MemoryCache

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
FILLERS = ["the", "of", "and", "a", "to", "in", "is", "for"]
RARE = [f"rare{number}" for number in range(24)]
Pairs = Sequence[tuple[str, str]]


def tokenizer_of(kind: str) -> Any:
    """Return a word-level tokenizer with the template of a release: an encoder's ends with [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *FILLERS, *RARE])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = "[CLS] $A [SEP]" if kind == "encoder" else "[CLS] $A"
    words.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@cache
def model_of(kind: str) -> Any:
    """Return a two-layer model with random weights."""
    import torch
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(FILLERS) + len(RARE), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "cls_token_id": 1,
        "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    torch.manual_seed(5)
    if kind == "encoder":
        return transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**shape)).eval()
    return transformers.ModernBertDecoderForCausalLM(transformers.ModernBertDecoderConfig(**shape)).eval()


def release(kind: str, folder: Path) -> Subject:
    """Save a model as a release, and open it."""
    model_of(kind).save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return open_subject(str(folder))


def draw_pairs(num_pairs: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs of texts of different lengths that share two rare words among fillers."""
    drawn = random.Random(seed)

    def text(shared: Sequence[str], fewest: int, most: int) -> str:
        parts = [*drawn.choices(FILLERS, k=drawn.randint(fewest, most)), *shared]
        drawn.shuffle(parts)
        return " ".join(parts)

    return [(text(two, 0, 3), text(two, 1, 6)) for two in (drawn.sample(RARE, 2) for _ in range(num_pairs))]


def write_task(folder: Path, *, distractors: Sequence[str] = (), **parts: Pairs) -> Path:
    """Write DIR/retrieval/NAME/PART.jsonl; ``folder`` ends in retrieval/NAME. Returns DIR."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Sequence[Mapping[str, str]]] = {
        name: [{"query": query, "positive": positive} for query, positive in pairs] for name, pairs in parts.items()
    }
    if distractors:
        rows["distractors"] = [{"text": text} for text in distractors]
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return folder.parents[1]


def build_tasks(data: Path, *, tasks: Sequence[str] = (), seeds: Sequence[int] = (1,), **flags: Any) -> Any:
    """Build the local tasks with settings for tiny models; flags are given without their prefix."""
    given = {"learning_rates": (3e-3,), "epochs": 4, "batch_pairs": 32, "mini_batch": 32, "max_length": 32, **flags}
    extra = {f"retrieval_{name}": value for name, value in given.items()}
    return SUITE.build_tasks(SuiteOptions(data, tasks, seeds, batch_size=16, extra=extra))


def build_task(data: Path, **flags: Any) -> LocalRetrieval:
    """Build the only local task."""
    (task,) = build_tasks(data, **flags)
    return task


def task_run(
    folder: Path, parts: MemoryCache | None = None, updates: list[tuple[str, int, int]] | None = None
) -> TaskRun:
    """Return the services of a task, with progress recorded in ``updates``."""
    return TaskRun(parts or MemoryCache(), lambda *update: None if updates is None else updates.append(update), folder)
