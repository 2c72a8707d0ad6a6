"""Embedding models built with sentence-transformers: loading, contrastive fine-tuning, and ranking.

Shape suffixes: N texts, Q queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject, check_nothing_missing, loading_by_transformers
from megatron_ettin.evaluation.suites.fine_tuning import Progress, run_trainer
from megatron_ettin.evaluation.suites.retrieval.pairs import Retrieval
from megatron_ettin.evaluation.suites.retrieval.protocol import POOLING, SCALE, RetrievalProtocol
from megatron_ettin.evaluation.suites.retrieval.ranking import rank_relevant


def build_embedder(subject: Subject, protocol: RetrievalProtocol) -> SentenceTransformer:
    """Return an embedder with the released weights, in fp32.

    The prediction head is not used, and texts get the special tokens of the released tokenizer: an encoder pools the
    mean over [CLS] text [SEP], a decoder the last token of [CLS] text.
    """
    transformer = Transformer(
        str(subject.folder), model_kwargs={"dtype": torch.float32}, max_seq_length=protocol.max_length
    )
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=POOLING[subject.is_encoder])
    return SentenceTransformer(modules=[transformer, pooling], device=protocol.device)


def load_embedder(folder: Path, protocol: RetrievalProtocol) -> SentenceTransformer:
    """Load a trained embedder."""
    return SentenceTransformer(str(folder), device=protocol.device, local_files_only=True)


def fine_tune(
    embedder: SentenceTransformer,
    train: Any,
    protocol: RetrievalProtocol,
    *,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> None:
    """Train all weights of an embedder in place, with the settings of the paper's training script.

    Args:
        embedder: the model.
        train: a ``datasets.Dataset`` with columns query, positive and, optionally, negatives.
        protocol: epochs, batch size, memory and device.
        learning_rate: peak learning rate.
        seed: seed of the order of the pairs and of dropout.
        progress: called after every step.
    """
    arguments = {
        **protocol.trainer_arguments(learning_rate, seed),
        "per_device_train_batch_size": protocol.batch_pairs,
        "batch_sampler": BatchSamplers.NO_DUPLICATES,
        "weight_decay": 0.0,
    }
    parts = {"model": embedder, "train_dataset": train, "loss": _build_loss(embedder, protocol)}
    run_trainer(_Trainer, SentenceTransformerTrainingArguments, arguments, progress, **parts)


def _build_loss(embedder: SentenceTransformer, protocol: RetrievalProtocol) -> torch.nn.Module:
    """Return the loss over all pairs of a step, computed in chunks if they do not fit into memory together.

    In chunks the texts are embedded twice (GradCache, Gao et al. 2021), which takes about a quarter more time.
    """
    if protocol.batch_pairs <= protocol.mini_batch:
        return MultipleNegativesRankingLoss(embedder, scale=SCALE)
    return CachedMultipleNegativesRankingLoss(embedder, scale=SCALE, mini_batch_size=protocol.mini_batch)


class _Trainer(SentenceTransformerTrainer):
    """The library's trainer without its model card, which searches the data for examples."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do nothing."""


def embed(embedder: SentenceTransformer, texts: Sequence[str], protocol: RetrievalProtocol) -> NDArray[np.float32]:
    """Return embeddings of unit length [N, D], in the order of the texts."""
    embeddings = embedder.encode(
        list(texts), batch_size=protocol.batch_size, normalize_embeddings=True, show_progress_bar=False
    )
    return np.asarray(embeddings, dtype=np.float32)


def rank_all(embedder: SentenceTransformer, retrieval: Retrieval, protocol: RetrievalProtocol) -> list[list[int]]:
    """Return the ranks of the relevant documents of each query."""
    queries_QD = embed(embedder, retrieval.queries, protocol)
    return rank_relevant(queries_QD, embed(embedder, retrieval.documents, protocol), retrieval.relevant)


def check_embeddable(subject: Subject, max_length: int) -> None:
    """Check that a model can embed texts of this length.

    Raises:
        ConfigError: transformers cannot load its trunk or tokenizer, weights or a padding token are missing, or it has
            fewer than ``max_length`` positions.
    """
    model_positions = _count_positions(subject)
    if model_positions is not None and max_length > model_positions:
        raise ConfigError(
            f"--retrieval-max-length {max_length}: {subject.given} has {model_positions} positions; must be no more"
        )


@cache
def _count_positions(subject: Subject) -> int | None:
    """Load and check a model, once for all tasks, and return its number of positions."""
    from transformers import AutoModel, AutoTokenizer

    with loading_by_transformers(subject):
        model, loading = AutoModel.from_pretrained(subject.folder, dtype=torch.float32, output_loading_info=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(subject.folder)
    check_nothing_missing(subject, loading["missing_keys"])
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"--model {subject.given}: cannot embed texts; its tokenizer has no padding token")
    positions = getattr(model.config, "max_position_embeddings", None)
    return int(positions) if positions else None
