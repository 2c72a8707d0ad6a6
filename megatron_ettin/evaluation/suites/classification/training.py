"""One trial: a model fine-tuned by transformers' Trainer, and what it then predicts."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from megatron_ettin.evaluation.suites.classification.classifier import SequenceClassifier
from megatron_ettin.evaluation.suites.classification.protocol import BETAS, CLIP_NORM, EPSILON, WARMUP_SHARE, Protocol

PREDICTED_TOKENS = 8192
"""Positions of a batch in prediction, padding counted."""

Progress = Callable[[int, int], None]
"""Called with the steps done, and of how many."""


def fine_tune(
    classifier: SequenceClassifier,
    inputs: Sequence[Sequence[int]],
    targets_N: NDArray[Any],
    *,
    protocol: Protocol,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> None:
    """Train a classifier in place. Batches hold inputs of like length; their order depends on the seed alone.

    Args:
        classifier: what is trained, all of its weights.
        inputs: token ids of each item.
        targets_N: numbers of classes (int), or figures (float).
        protocol: epochs, batch size, weight decay, device.
        learning_rate: its peak.
        seed: of the order and of dropout.
        progress: is told of every step.
    """
    items = [{"input_ids": tokens, "labels": target} for tokens, target in zip(inputs, targets_N.tolist(), strict=True)]
    with tempfile.TemporaryDirectory() as folder:  # Trainer asks for one, though nothing is saved
        arguments = TrainingArguments(
            output_dir=folder, learning_rate=learning_rate, num_train_epochs=protocol.epochs,
            per_device_train_batch_size=protocol.train_batch_size, train_sampling_strategy="group_by_length",
            lr_scheduler_type="linear", warmup_steps=WARMUP_SHARE, weight_decay=protocol.weight_decay,
            adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPSILON, max_grad_norm=CLIP_NORM,
            seed=seed, data_seed=seed, use_cpu=protocol.device == "cpu", bf16=protocol.uses_bf16,
            remove_unused_columns=False, save_strategy="no", logging_strategy="no", report_to="none",
            disable_tqdm=True,
        )  # fmt: skip
        arguments._n_gpu = min(arguments.n_gpu, 1)  # of several GPUs each would take a batch of its own
        trainer = Trainer(
            model=classifier,
            args=arguments,
            train_dataset=items,
            data_collator=collate,
            callbacks=[_Reporter(progress)],
        )
        trainer.remove_callback(PrinterCallback)
        with _little_garbage():
            trainer.train()


def predict(classifier: SequenceClassifier, inputs: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Return the logits [N, C] of each input, in the order given; those of like length run together."""
    classifier.eval()
    device = classifier.output.weight.device
    logits_NC = np.empty((len(inputs), classifier.output.out_features), dtype=np.float32)
    with torch.no_grad():
        for batch in _batches([len(tokens) for tokens in inputs]):
            told = classifier(**_padded([inputs[i] for i in batch], device))
            logits_NC[batch] = told["logits"].float().cpu().numpy()
    return logits_NC


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch of items with ``input_ids`` and ``labels``."""
    batch = _padded([item["input_ids"] for item in items], torch.device("cpu"))
    return {**batch, "labels": torch.tensor([item["labels"] for item in items])}


def _padded(inputs: Sequence[Sequence[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return token ids and mask [B, S], padded on the right; which token pads does not matter, since it is masked."""
    rows = [torch.tensor(tokens) for tokens in inputs]
    ones = [torch.ones(len(tokens), dtype=torch.int64) for tokens in inputs]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True).to(device),
        "attention_mask": pad(ones, batch_first=True).to(device),
    }


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the numbers of items that run together, longest first, ``PREDICTED_TOKENS`` positions at most."""
    order = sorted(range(len(lengths)), key=lambda item: -lengths[item])
    batches: list[list[int]] = []
    for item in order:
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > PREDICTED_TOKENS:
            batches.append([])
        batches[-1].append(item)
    return batches


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Keep what is there from the collector: Trainer has it look through every object of every library loaded.

    That takes a quarter of a second a trial, as long as a tiny model trains.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Reporter(TrainerCallback):
    """Hands the Trainer's steps on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell of a finished step."""
        self._progress(state.global_step, state.max_steps)
