"""A released model as an embedder of texts, by sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject, check_nothing_missing, loading_by_transformers
from megatron_ettin.evaluation.suites.retrieval.pairs import Retrieval
from megatron_ettin.evaluation.suites.retrieval.protocol import POOLING, Protocol
from megatron_ettin.evaluation.suites.retrieval.ranking import rank_relevant


def build_embedder(subject: Subject, protocol: Protocol) -> SentenceTransformer:
    """Return an embedder that is not trained yet, in fp32.

    The prediction head takes no part, and texts get the special tokens of the released tokenizer: an encoder's
    [CLS] text [SEP], of which the mean is taken; a decoder's [CLS] text, of which the last token stands for the text.
    """
    transformer = Transformer(
        str(subject.folder), model_kwargs={"dtype": torch.float32}, max_seq_length=protocol.max_length
    )
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=POOLING[subject.is_encoder])
    return SentenceTransformer(modules=[transformer, pooling], device=protocol.device)


def load_embedder(folder: Path, protocol: Protocol) -> SentenceTransformer:
    """Return a trained embedder."""
    return SentenceTransformer(str(folder), device=protocol.device, local_files_only=True)


def embed(embedder: SentenceTransformer, texts: Sequence[str], protocol: Protocol) -> NDArray[np.float32]:
    """Return embeddings of length 1 [N, D], in the order given."""
    told = embedder.encode(
        list(texts), batch_size=protocol.batch_size, normalize_embeddings=True, show_progress_bar=False
    )
    return np.asarray(told, dtype=np.float32)


def rank_all(embedder: SentenceTransformer, retrieval: Retrieval, protocol: Protocol) -> list[list[int]]:
    """Return for each query the ranks of its relevant documents."""
    queries_QD = embed(embedder, retrieval.queries, protocol)
    return rank_relevant(queries_QD, embed(embedder, retrieval.documents, protocol), retrieval.relevant)


def check_embeddable(subject: Subject, max_length: int) -> None:
    """Refuse a model that cannot embed texts of this length.

    Raises:
        ConfigError: transformers cannot load its body or tokenizer, weights are missing, no token pads, or its
            positions end before ``max_length``.
    """
    model_positions = _count_positions(subject)
    if model_positions is not None and max_length > model_positions:
        raise ConfigError(
            f"--retrieval-max-length {max_length}: {subject.given} has {model_positions} positions; must be no more"
        )


@cache
def _count_positions(subject: Subject) -> int | None:
    """Load a model once for all tasks, say what is wrong with it, and return how many positions it has."""
    from transformers import AutoModel, AutoTokenizer

    with loading_by_transformers(subject):
        model, loading = AutoModel.from_pretrained(subject.folder, dtype=torch.float32, output_loading_info=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(subject.folder)
    check_nothing_missing(subject, loading["missing_keys"])
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"--model {subject.given}: cannot embed texts; its tokenizer has no token that pads")
    positions = getattr(model.config, "max_position_embeddings", None)
    return int(positions) if positions else None
