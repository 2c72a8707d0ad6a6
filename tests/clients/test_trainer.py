"""A released encoder fine-tuned by transformers' Trainer to classify snippets of standard-library packages."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.released import Released, load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGES = ("asyncio", "email", "multiprocessing", "xml")
"""Packages of similar size in every version of Python."""
SNIPPET_CHARACTERS = 400
TRAIN_EACH, TEST_EACH = 150, 30
CHANCE = 1 / len(PACKAGES)


def snippets() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return training and test rows {"text", "label"}: equally many of each package, from different files."""
    generator = random.Random(3)
    train, test = [], []
    for label, package in enumerate(PACKAGES):
        files = sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py"))
        generator.shuffle(files)
        cut = [_cut(path) for path in files if "test" not in path.parts]
        held_out: list[str] = []
        while len(held_out) < TEST_EACH:
            held_out += cut.pop()
        training = [snippet for file in cut for snippet in file]
        assert len(training) >= TRAIN_EACH, f"{package} has only {len(training)} snippets"
        train += [{"text": text, "label": label} for text in generator.sample(training, TRAIN_EACH)]
        test += [{"text": text, "label": label} for text in generator.sample(held_out, TEST_EACH)]
    return train, test


def _cut(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    starts = range(0, len(text) - SNIPPET_CHARACTERS + 1, SNIPPET_CHARACTERS)
    return [text[start : start + SNIPPET_CHARACTERS] for start in starts]


def test_sequence_classification(released: Released, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    tokenizer = load_tokenizer(released, "encoder")
    train, test = ([tokenizer(row["text"]) | {"label": row["label"]} for row in part] for part in snippets())
    model = AutoModelForSequenceClassification.from_pretrained(released.model("encoder"), num_labels=len(PACKAGES))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=16, num_train_epochs=2, learning_rate=1e-3,
        warmup_steps=5, seed=5, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=test, processing_class=tokenizer,
        compute_metrics=lambda result: {"accuracy": float(np.mean(result.predictions.argmax(-1) == result.label_ids))},
    )  # fmt: skip
    before = trainer.evaluate()["eval_accuracy"]
    trainer.train()
    after = trainer.evaluate()["eval_accuracy"]
    assert after > CHANCE + 0.3, f"accuracy {after:.2f} on unseen snippets, {before:.2f} before training"
