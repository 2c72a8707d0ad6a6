"""All trials of a model in a task: learning rate by seed, and what each told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.models.subject import Subject, loading_by_transformers
from megatron_ettin.evaluation.suites.classification.classifier import Pooling, load_classifier
from megatron_ettin.evaluation.suites.classification.data import LabelledTask, Split
from megatron_ettin.evaluation.suites.classification.metrics import Metric
from megatron_ettin.evaluation.suites.classification.protocol import Protocol
from megatron_ettin.evaluation.suites.classification.tokens import encode_texts
from megatron_ettin.evaluation.suites.classification.training import Progress, fine_tune, predict

FAMILY = ("modernbert", "modernbert-decoder")
"""Model types whose prediction head is kept; models of other families get a fresh one."""


@dataclass(frozen=True)
class TrialResult:
    """What one fine-tuned model predicted: numbers of classes, or figures. No label of these items went into it."""

    choice: NDArray[Any]
    reported: Mapping[str, NDArray[Any]]

    def as_json(self) -> dict[str, Any]:
        """Return what is kept on disk."""
        return {"choice": self.choice.tolist(), "reported": {name: p.tolist() for name, p in self.reported.items()}}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> TrialResult:
        """Undo ``as_json``."""
        return cls(np.array(told["choice"]), {name: np.array(p) for name, p in told["reported"].items()})


class TrialRunner:
    """Runs trials of one model in one task; texts are made token ids once, and only if a trial is really run."""

    def __init__(self, subject: Subject, task: LabelledTask, protocol: Protocol) -> None:
        """Put a model to a task by a protocol."""
        self.subject = subject
        self.task = task
        self.protocol = protocol
        config = json.loads((subject.folder / "config.json").read_text(encoding="utf-8"))
        self.max_length = min(protocol.max_length, config.get("max_position_embeddings") or protocol.max_length)
        self.keeps_head = subject.has_head and config.get("model_type") in FAMILY

    @property
    def pooling(self) -> Pooling:
        """What stands for a text in this model."""
        if not self.subject.is_encoder:
            return "last"
        return "cls" if self.protocol.pooling == "cls" else "mean"

    def run(self, learning_rate: float, seed: int, progress: Progress) -> TrialResult:
        """Fine-tune from the released weights and predict."""
        classes, purposes = self.task.classes, self.task.purposes
        scale = Scale.of(purposes.train) if classes is None else None
        targets_N = purposes.train.targets_N if scale is None else scale.to_learn(purposes.train.targets_N)
        classifier = load_classifier(self.subject, self.pooling, len(classes or "1"), seed)
        fine_tune(
            classifier,
            self._inputs["train"],
            targets_N,
            protocol=self.protocol,
            learning_rate=learning_rate,
            seed=seed,
            progress=progress,
        )

        def told(name: str) -> NDArray[Any]:
            logits_NC = predict(classifier, self._inputs[name])
            return logits_NC.argmax(axis=1) if scale is None else scale.to_tell(logits_NC[:, 0])

        return TrialResult(told("choice"), {name: told(f"reported {name}") for name in purposes.reported})

    @cached_property
    def _inputs(self) -> Mapping[str, Sequence[Sequence[int]]]:
        from transformers import AutoTokenizer

        with loading_by_transformers(self.subject):
            tokenizer = AutoTokenizer.from_pretrained(self.subject.folder)
        purposes = self.task.purposes
        reported = {f"reported {name}": split for name, split in purposes.reported.items()}
        splits: dict[str, Split] = {"train": purposes.train, "choice": purposes.choice, **reported}
        return {name: encode_texts(tokenizer, split.texts, self.max_length) for name, split in splits.items()}


@dataclass(frozen=True)
class Scale:
    """Figures of a regression are learnt with mean 0 and spread 1, as an output at its beginning can tell them."""

    mean: float
    spread: float

    @classmethod
    def of(cls, train: Split) -> Scale:
        """Measure the training labels."""
        return cls(float(np.mean(train.targets_N)), float(np.std(train.targets_N)))

    def to_learn(self, targets_N: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the model is to say."""
        return np.asarray((targets_N - self.mean) / self.spread, dtype=np.float32)

    def to_tell(self, outputs_N: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what it said, as labels; a model that has diverged is taken to tell the mean of all."""
        if not np.isfinite(outputs_N).all():
            return np.full(len(outputs_N), self.mean)
        return np.asarray(outputs_N, dtype=np.float64) * self.spread + self.mean


def score_choice(metric: Metric, choice: Split, results: Sequence[TrialResult]) -> float:
    """Return the mean score of trials at one rate on the items to choose on."""
    return float(np.mean([metric(choice.targets_N, result.choice) for result in results]))
