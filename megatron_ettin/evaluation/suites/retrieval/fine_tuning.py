"""Contrastive fine-tuning by sentence-transformers, with the settings of the paper's training script."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import PrinterCallback, TrainerCallback

from megatron_ettin.evaluation.suites.retrieval.protocol import SCALE, WARMUP_SHARE, Protocol

Progress = Callable[[int, int], None]
"""Called with the steps done, and of how many."""


def fine_tune(
    embedder: SentenceTransformer,
    train: Any,
    protocol: Protocol,
    *,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> None:
    """Train an embedder in place, all of its weights.

    Args:
        embedder: what is trained.
        train: a ``datasets.Dataset`` whose columns are a query, a document that answers it, and others that do not.
        protocol: epochs, batch, memory, device.
        learning_rate: its peak.
        seed: of the order of the pairs, and of dropout.
        progress: is told of every step.
    """
    with tempfile.TemporaryDirectory() as folder:  # the trainer asks for one, though nothing is saved
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder, learning_rate=learning_rate, num_train_epochs=protocol.epochs,
            per_device_train_batch_size=protocol.batch_pairs, batch_sampler=BatchSamplers.NO_DUPLICATES,
            lr_scheduler_type="linear", warmup_steps=WARMUP_SHARE, weight_decay=0.0, max_grad_norm=1.0,
            seed=seed, data_seed=seed, bf16=protocol.uses_bf16, use_cpu=protocol.device == "cpu",
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        # On a machine with several GPUs the trainer would make a step of as many batches.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        trainer = _Trainer(
            model=embedder,
            args=arguments,
            train_dataset=train,
            loss=_build_loss(embedder, protocol),
            callbacks=[_Reporter(progress)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _build_loss(embedder: SentenceTransformer, protocol: Protocol) -> torch.nn.Module:
    """Return the loss over all pairs of a step, in chunks where they do not fit into memory at once.

    In chunks the texts are embedded twice (Gao et al. 2021, GradCache), which costs about a quarter more time.
    """
    if protocol.batch_pairs <= protocol.mini_batch:
        return MultipleNegativesRankingLoss(embedder, scale=SCALE)
    return CachedMultipleNegativesRankingLoss(embedder, scale=SCALE, mini_batch_size=protocol.mini_batch)


class _Trainer(SentenceTransformerTrainer):
    """The library's trainer without its model card, which looks through the data for examples."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none."""


class _Reporter(TrainerCallback):
    """Hands the trainer's steps on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell of a finished step."""
        self._progress(state.global_step, state.max_steps)
