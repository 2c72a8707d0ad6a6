"""Trials of a model on a task, one per learning rate and seed: tokenisation, fine-tuning and prediction."""

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
from megatron_ettin.evaluation.suites.classification.data import LabelledTask, Split, Text
from megatron_ettin.evaluation.suites.classification.metrics import Metric
from megatron_ettin.evaluation.suites.classification.protocol import ClassificationProtocol
from megatron_ettin.evaluation.suites.classification.training import fine_tune, predict
from megatron_ettin.evaluation.suites.fine_tuning import Progress

FAMILY = ("modernbert", "modernbert-decoder")
"""Model types whose prediction head is kept; models of other families get a random one."""


@dataclass(frozen=True)
class TrialResult:
    """Predictions of one fine-tuned model: class numbers, or regression values. It never sees these items' labels."""

    choice: NDArray[Any]
    reported: Mapping[str, NDArray[Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the form that is stored on disk."""
        return {"choice": self.choice.tolist(), "reported": {name: p.tolist() for name, p in self.reported.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TrialResult:
        """Invert ``as_json``."""
        return cls(np.array(stored["choice"]), {name: np.array(p) for name, p in stored["reported"].items()})


class TrialRunner:
    """Runs trials of one model on one task; texts are tokenised once, when the first trial runs."""

    def __init__(self, subject: Subject, task: LabelledTask, protocol: ClassificationProtocol) -> None:
        """Read the model's config."""
        self.subject = subject
        self.task = task
        self.protocol = protocol
        config = json.loads((subject.folder / "config.json").read_text(encoding="utf-8"))
        self.max_length = min(protocol.max_length, config.get("max_position_embeddings") or protocol.max_length)
        self.keeps_head = subject.has_head and config.get("model_type") in FAMILY

    @property
    def pooling(self) -> Pooling:
        """The pooling for this kind of model."""
        if not self.subject.is_encoder:
            return "last"
        return "cls" if self.protocol.pooling == "cls" else "mean"

    def run(self, learning_rate: float, seed: int, progress: Progress) -> TrialResult:
        """Fine-tune the released weights and predict."""
        classes, purposes = self.task.classes, self.task.purposes
        scale = Standardization.fit(purposes.train) if classes is None else None
        targets_N = purposes.train.targets_N if scale is None else scale.apply(purposes.train.targets_N)
        pairs = zip(self._inputs["train"], targets_N.tolist(), strict=True)
        items = [{"input_ids": tokens, "labels": target} for tokens, target in pairs]
        classifier = load_classifier(self.subject, self.pooling, len(classes or "1"), seed)
        fine_tune(classifier, items, self.protocol, learning_rate=learning_rate, seed=seed, progress=progress)

        def predictions(name: str) -> NDArray[Any]:
            logits_NC = predict(classifier, self._inputs[name])
            return logits_NC.argmax(axis=1) if scale is None else scale.invert(logits_NC[:, 0])

        return TrialResult(predictions("choice"), {name: predictions(f"reported {name}") for name in purposes.reported})

    @cached_property
    def _inputs(self) -> Mapping[str, Sequence[Sequence[int]]]:
        """Token ids of the items of each split."""
        from transformers import AutoTokenizer

        with loading_by_transformers(self.subject):
            tokenizer = AutoTokenizer.from_pretrained(self.subject.folder)
        purposes = self.task.purposes
        reported = {f"reported {name}": split for name, split in purposes.reported.items()}
        splits: dict[str, Split] = {"train": purposes.train, "choice": purposes.choice, **reported}
        return {name: encode_texts(tokenizer, split.texts, self.max_length) for name, split in splits.items()}


@dataclass(frozen=True)
class Standardization:
    """Maps regression targets to mean 0 and standard deviation 1, the scale of a newly initialised output."""

    mean: float
    std: float

    @classmethod
    def fit(cls, train: Split) -> Standardization:
        """Compute mean and standard deviation of the training targets."""
        return cls(float(np.mean(train.targets_N)), float(np.std(train.targets_N)))

    def apply(self, targets_N: NDArray[Any]) -> NDArray[np.float32]:
        """Return standardized targets."""
        return np.asarray((targets_N - self.mean) / self.std, dtype=np.float32)

    def invert(self, outputs_N: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return outputs in the units of the targets; a diverged model predicts the mean."""
        if not np.isfinite(outputs_N).all():
            return np.full(len(outputs_N), self.mean)
        return np.asarray(outputs_N, dtype=np.float64) * self.std + self.mean


def mean_score(metric: Metric, choice: Split, results: Sequence[TrialResult]) -> float:
    """Return the mean score of trials on the items that select the learning rate."""
    return float(np.mean([metric(choice.targets_N, result.choice) for result in results]))


@dataclass(frozen=True)
class InputTemplate:
    """The special tokens before, between and after texts."""

    start: Sequence[int]
    between: Sequence[int]
    end: Sequence[int]

    @classmethod
    def of(cls, tokenizer: Any) -> InputTemplate:
        """Read the template of a tokenizer: [CLS] text [SEP] for an encoder, [CLS] text for a decoder.

        Pairs are separated by [SEP] for both. An encoder's own template does so; a decoder's would concatenate the
        texts, and no model could recognise where the second one starts.
        """
        encoding = tokenizer("a", return_special_tokens_mask=True)
        is_special = encoding["special_tokens_mask"]
        first = is_special.index(0)
        last = len(is_special) - 1 - is_special[::-1].index(0)
        tokens = encoding["input_ids"]
        separators = (tokenizer.sep_token_id, tokenizer.eos_token_id)
        return cls(tokens[:first], [token for token in separators if token is not None][:1], tokens[last + 1 :])

    def fill(self, texts: Sequence[Sequence[int]], max_length: int) -> list[int]:
        """Return one input of at most ``max_length`` tokens; the longer text of a pair is truncated first."""
        room = max_length - len(self.start) - len(self.end) - len(self.between) * (len(texts) - 1)
        lengths = _truncated_lengths([len(tokens) for tokens in texts], room)
        filled = list(self.start)
        for number, (tokens, length) in enumerate(zip(texts, lengths, strict=True)):
            filled += [*(self.between if number else ()), *tokens[:length]]
        return filled + list(self.end)


def encode_texts(tokenizer: Any, texts: Sequence[Text], max_length: int) -> list[list[int]]:
    """Return the token ids of each text or pair, special tokens included."""
    template = InputTemplate.of(tokenizer)
    flat = [part for text in texts for part in text]
    ids = iter(tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"])
    return [template.fill([next(ids) for _ in text], max_length) for text in texts]


def _truncated_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """Return the tokens kept of one or two texts if the longer one is truncated first."""
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    half = room // 2
    first = max(room - half, room - lengths[1])
    return [min(lengths[0], first), min(lengths[1], room - min(lengths[0], first))]
