"""Tiny released models of both kinds, tiny tasks, and what a task needs to run."""

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
from megatron_ettin.evaluation.suites.classification.suite import SUITE
from megatron_ettin.evaluation.suites.classification.task import ClassificationTask
from tests.evaluation.tiny_models import released_model, tokenizer

FILLERS = ["the", "quick", "brown", "lazy", "and", "small", "warm", "over", "jumps", "cat", "window", "sill"]
SPECIAL = [("[CLS]", 1), ("[SEP]", 2)]


def tokenizer_of(kind: str) -> Any:
    """Return a tokenizer whose template is a release's: an encoder's closes with [SEP], a decoder's does not."""
    made = copy.deepcopy(tokenizer())
    end = " [SEP]" if kind == "encoder" else ""
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A{end}", pair=f"[CLS] $A{end} $B{end}", special_tokens=SPECIAL
    )
    return made


def release(kind: str, folder: Path, *, with_head: bool = True) -> Subject:
    """Write a tiny random model as a release, and open it."""
    model = released_model(kind)
    (model if with_head else model.model).save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return open_subject(str(folder))


def rows(num_items: int, seed: int, *, labels: Sequence[Any] = ("cat", "dog")) -> list[dict[str, Any]]:
    """Return texts with "fox" or "dog" among words that say nothing, and a label that follows from which."""
    drawn = random.Random(seed)
    made = []
    for number in range(num_items):
        words = drawn.choices(FILLERS, k=drawn.randint(2, 9))
        words.insert(drawn.randrange(len(words) + 1), ("fox", "dog")[number % 2])
        made.append({"text": " ".join(words), "label": labels[number % 2]})
    return made


def write_task(folder: Path, **splits: Sequence[Mapping[str, Any]]) -> Path:
    """Write DIR/classification/NAME/SPLIT.jsonl; ``folder`` ends in classification/NAME."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in splits.items():
        lines = (json.dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def build_tasks(data: Path, **flags: Any) -> list[ClassificationTask]:
    """Build the local tasks with rates and epochs that suit tiny models; flags are named without their prefix."""
    options = {key: flags.pop(key) for key in ("seeds", "tasks") if key in flags}
    given = {"learning_rates": (1e-2,), "epochs": 6, "train_batch_size": 8, **flags}
    extra = {f"classification_{name}": value for name, value in given.items()}
    return list(SUITE.build_tasks(SuiteOptions(data, **{"seeds": (1,), **options}, extra=extra)))


@dataclass
class Memory:
    """Keeps parts as JSON text, and counts what was computed."""

    parts: dict[str, str] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)

    def recall(self, part: str, compute: Callable[[], Any]) -> Any:
        if part not in self.parts:
            self.parts[part] = json.dumps(compute(), allow_nan=False)
            self.computed.append(part)
        return json.loads(self.parts[part])


def task_run(memory: Memory | None = None, seen: list[tuple[str, int, int]] | None = None) -> TaskRun:
    """Return what a task is handed."""
    return TaskRun(memory or Memory(), lambda *told: None if seen is None else seen.append(told), Path("unused"))


def config_of(subject: Subject) -> Any:
    """Return the model's config as transformers reads it."""
    return transformers.AutoConfig.from_pretrained(subject.folder)
