"""Tiny released models of both kinds, tiny tasks, and the services that a task needs."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from tokenizers import processors

from megatron_ettin.evaluation.models.subject import Subject, open_subject
from megatron_ettin.evaluation.suite import SuiteOptions, TaskRun
from megatron_ettin.evaluation.suites.classification.suite import SUITE, ClassificationTask
from tests.evaluation.tiny_models import released_model, tokenizer

FILLERS = ["the", "quick", "brown", "lazy", "and", "small", "warm", "over", "jumps", "cat", "window", "sill"]
SPECIAL = [("[CLS]", 1), ("[SEP]", 2)]


def tokenizer_of(kind: str) -> Any:
    """Return a tokenizer with the template of a release: an encoder's ends with [SEP], a decoder's does not."""
    copied = copy.deepcopy(tokenizer())
    end = " [SEP]" if kind == "encoder" else ""
    copied.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A{end}", pair=f"[CLS] $A{end} $B{end}", special_tokens=SPECIAL
    )
    return copied


def release(kind: str, folder: Path, *, with_head: bool = True) -> Subject:
    """Save a tiny random model as a release, and open it."""
    model = released_model(kind)
    (model if with_head else model.model).save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return open_subject(str(folder))


def rows(num_items: int, seed: int, *, labels: Sequence[Any] = ("cat", "dog")) -> list[dict[str, Any]]:
    """Return texts with "fox" or "dog" among fillers, and the label that it determines."""
    drawn = random.Random(seed)
    items = []
    for number in range(num_items):
        words = drawn.choices(FILLERS, k=drawn.randint(2, 9))
        words.insert(drawn.randrange(len(words) + 1), ("fox", "dog")[number % 2])
        items.append({"text": " ".join(words), "label": labels[number % 2]})
    return items


def write_task(folder: Path, **splits: Sequence[Mapping[str, Any]]) -> Path:
    """Write DIR/classification/NAME/SPLIT.jsonl; ``folder`` ends in classification/NAME."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in splits.items():
        lines = (json.dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def build_tasks(data: Path, **flags: Any) -> list[ClassificationTask]:
    """Build the local tasks with settings for tiny models; flags are given without their prefix."""
    options = {key: flags.pop(key) for key in ("seeds", "tasks") if key in flags}
    given = {"learning_rates": (1e-2,), "epochs": 6, "train_batch_size": 8, **flags}
    extra = {f"classification_{name}": value for name, value in given.items()}
    return list(SUITE.build_tasks(SuiteOptions(data, **{"seeds": (1,), **options}, extra=extra)))


@dataclass
class MemoryCache:
    """Stores parts as JSON text, and records which were computed."""

    parts: dict[str, str] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)

    def get_or_compute(self, part: str, compute: Callable[[], Any]) -> Any:
        if part not in self.parts:
            self.parts[part] = json.dumps(compute(), allow_nan=False)
            self.computed.append(part)
        return json.loads(self.parts[part])


def task_run(parts: MemoryCache | None = None, updates: list[tuple[str, int, int]] | None = None) -> TaskRun:
    """Return the services of a task, with progress recorded in ``updates``."""
    record = (lambda *update: None) if updates is None else (lambda *update: updates.append(update))
    return TaskRun(parts or MemoryCache(), record, Path("unused"))


def config_of(subject: Subject) -> Any:
    """Return the model's config, read by transformers."""
    return transformers.AutoConfig.from_pretrained(subject.folder)
