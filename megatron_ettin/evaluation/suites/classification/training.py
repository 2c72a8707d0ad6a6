"""Fine-tuning of a classifier with transformers' Trainer, and its predictions.

Shape suffixes: N items, C outputs, B inputs of a batch, S positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Trainer, TrainingArguments

from megatron_ettin.evaluation.suites.classification.classifier import SequenceClassifier
from megatron_ettin.evaluation.suites.classification.protocol import BETAS, EPSILON, ClassificationProtocol
from megatron_ettin.evaluation.suites.fine_tuning import Progress, run_trainer

PREDICTED_TOKENS = 8192
"""Positions of a prediction batch, padding included."""


def fine_tune(
    classifier: SequenceClassifier,
    items: Sequence[Mapping[str, Any]],
    protocol: ClassificationProtocol,
    *,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> None:
    """Train all weights of a classifier in place, in batches of inputs of similar length.

    Args:
        classifier: the model.
        items: ``input_ids`` and ``labels`` of each item: token ids, and a class number (int) or target (float).
        protocol: epochs, batch size, weight decay and device.
        learning_rate: peak learning rate.
        seed: seed of the item order and of dropout.
        progress: called after every step.
    """
    arguments = {
        **protocol.trainer_arguments(learning_rate, seed),
        "per_device_train_batch_size": protocol.train_batch_size,
        "train_sampling_strategy": "group_by_length",
        "weight_decay": protocol.weight_decay,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "remove_unused_columns": False,
    }
    parts = {"model": classifier, "train_dataset": items, "data_collator": collate}
    run_trainer(Trainer, TrainingArguments, arguments, progress, **parts)


def predict(classifier: SequenceClassifier, inputs: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Return the logits [N, C] of the inputs in their order; inputs of similar length are batched."""
    classifier.eval()
    device = classifier.output.weight.device
    logits_NC = np.empty((len(inputs), classifier.output.out_features), dtype=np.float32)
    with torch.no_grad():
        for batch in _batches([len(tokens) for tokens in inputs]):
            outputs = classifier(**_padded([inputs[i] for i in batch], device))
            logits_NC[batch] = outputs["logits"].float().cpu().numpy()
    return logits_NC


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch of items that have ``input_ids`` and ``labels``."""
    batch = _padded([item["input_ids"] for item in items], torch.device("cpu"))
    return {**batch, "labels": torch.tensor([item["labels"] for item in items])}


def _padded(inputs: Sequence[Sequence[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return token ids and attention mask [B, S], padded on the right; the id of masked padding is irrelevant."""
    rows = [torch.tensor(tokens) for tokens in inputs]
    ones = [torch.ones(len(tokens), dtype=torch.int64) for tokens in inputs]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True).to(device),
        "attention_mask": pad(ones, batch_first=True).to(device),
    }


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the item indices of each batch, longest items first, with at most ``PREDICTED_TOKENS`` positions."""
    order = sorted(range(len(lengths)), key=lambda item: -lengths[item])
    batches: list[list[int]] = []
    for item in order:
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > PREDICTED_TOKENS:
            batches.append([])
        batches[-1].append(item)
    return batches
