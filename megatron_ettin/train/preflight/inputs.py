"""Check the files that a run reads: tokenizer, corpora, and the folder it saves to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.run import RunConfig, spell
from megatron_ettin.data.chunks import document_bounds
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.index_cache import Arrays, IndexCache
from megatron_ettin.data.splits import Documents, split_corpus
from megatron_ettin.errors import ConfigError

VOCAB_MULTIPLE = 64
"""Without --vocab-size, the tokenizer's size is rounded up to a multiple of this, which gives the published 50,368."""

SCANNED_TOKENS = 2**31
"""Token ids that are checked: all of a corpus of this size, evenly spaced blocks of a larger one."""

_BLOCK_TOKENS = 2**22
_BLOCK_DOCUMENTS = 2**16


def load_tokenizer(config: RunConfig, data_order: Mapping[str, Any] | None = None) -> TokenizerFiles | None:
    """Return the tokenizer, or None without ``--tokenizer-model`` (a dry run).

    Args:
        config: names it.
        data_order: the fingerprint of the checkpoint that training starts from, whose special tokens are kept.

    Raises:
        ConfigError: there is no tokenizer, or it lacks a special token that the objective needs.
    """
    if not config.data.tokenizer_model:
        return None
    tokenizer = TokenizerFiles.load(config.data.tokenizer_model).as_trained(data_order)
    for role in OBJECTIVES[config.training.objective].special_tokens:
        if role not in tokenizer.roles:
            rule = f"has no {tokenizer.role_texts[role]} token, which {spell(config, 'objective')} needs"
            raise ConfigError(f"{spell(config, 'tokenizer_model')}: {rule}")
    return tokenizer


def resolve_vocabulary(config: RunConfig, tokenizer: TokenizerFiles) -> RunConfig:
    """Return the config with a vocabulary size that covers the tokenizer.

    Raises:
        ConfigError: ``--vocab-size`` is smaller than the tokenizer.
    """
    if not config.model.vocab_size:
        return config.with_values({"vocab_size": -(-tokenizer.size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE})
    if config.model.vocab_size < tokenizer.size:
        rule = f"{spell(config, 'tokenizer_model')} has {tokenizer.size} tokens, and each needs a row"
        raise ConfigError(f"{spell(config, 'vocab_size')}: {rule}")
    return config


def check_corpus(config: RunConfig, tokenizer: TokenizerFiles | None) -> None:
    """Check the corpora of ``--data-path``, if it is given.

    Raises:
        ConfigError: a file is missing or damaged, a required split is empty, or a token id has no embedding row.
    """
    if not config.data.data_path:
        return
    needed = "validation" if config.training.eval_only else "training"
    num_needed = num_documents = 0
    for source in config.data.data_path.requests:
        _refuse_suffix(source.path)
        corpus = IndexedTokens(source.path)
        documents = split_corpus(corpus.num_documents, config.data.split, config.data.split_by, source.path)[needed]
        num_needed += len(documents)
        num_documents += corpus.num_documents
        if len(documents):
            _refuse_empty(source.path, corpus, documents, needed, tokenizer)
        elif needed == "training" and (source.weight is not None or source.tokens is not None):
            rule = f"leaves no document for training out of the {corpus.num_documents} of {source.path}"
            raise ConfigError(f"{spell(config, 'split')}: {rule}, which --data-path gives a share")
        _refuse_other_tokenizer(config, source.path, tokenizer)
        _refuse_unknown_tokens(config, source.path, corpus, tokenizer)
    if num_needed == 0:
        rule = f"leaves no document for {needed} out of the {num_documents} of {spell(config, 'data_path')}"
        raise ConfigError(f"{spell(config, 'split')}: {rule}")


def _refuse_unknown_tokens(
    config: RunConfig, prefix: str, corpus: IndexedTokens, tokenizer: TokenizerFiles | None
) -> None:
    """Refuse a corpus with a token id beyond the vocabulary; the result for a large corpus is cached."""
    limit, owner = config.model.vocab_size, spell(config, "vocab_size")
    if tokenizer is not None:
        limit, owner = tokenizer.size, spell(config, "tokenizer_model")

    def scan() -> Arrays:
        return {"largest": np.array([largest_token(corpus)])}

    if corpus.is_large:
        cache = IndexCache.of_corpus(prefix, config.data.data_cache_path).with_facts(looked_at=SCANNED_TOKENS)
        largest = int(cache.get(scan)["largest"][0])
    else:
        largest = largest_token(corpus)
    if largest >= limit:
        rule = f"contains token id {largest}, and {owner} has {limit} tokens: it was written with another tokenizer"
        raise ConfigError(f"--data-path {prefix}: {rule}")


def _refuse_empty(
    prefix: str,
    corpus: IndexedTokens,
    documents: Documents,
    needed: str,
    tokenizer: TokenizerFiles | None,
) -> None:
    """Refuse a split whose documents are empty, or contain only the [SEP] that ends an empty text."""
    end_tokens = -1 if tokenizer is None or tokenizer.end_tokens is None else tokenizer.end_tokens
    for first in range(0, len(documents), _BLOCK_DOCUMENTS):
        starts, ends = document_bounds(corpus, documents[first : first + _BLOCK_DOCUMENTS])
        if (ends - starts > 1).any() or not np.isin(corpus.tokens[starts[ends - starts == 1]], end_tokens).all():
            return
    raise ConfigError(f"--data-path {prefix}: all {len(documents)} documents for {needed} are empty")


def _refuse_other_tokenizer(config: RunConfig, prefix: str, tokenizer: TokenizerFiles | None) -> None:
    """Refuse a corpus whose manifest names another tokenizer; other tools write no manifest."""
    manifest = Manifest.load(prefix)
    if manifest is None or tokenizer is None:
        return
    if manifest.tokenizer_fingerprint != tokenizer.encoding_fingerprint:
        rule = f"was written with another tokenizer than {spell(config, 'tokenizer_model')} (see its manifest)"
        raise ConfigError(f"--data-path {prefix}: {rule}")


def largest_token(corpus: IndexedTokens) -> int:
    """Return the largest of the token ids that are checked; -1 for an empty corpus."""
    num_blocks = -(-len(corpus.tokens) // _BLOCK_TOKENS)
    looked_at = min(num_blocks, SCANNED_TOKENS // _BLOCK_TOKENS)
    starts = np.unique(np.linspace(0, num_blocks - 1, looked_at).astype(np.int64)) * _BLOCK_TOKENS
    return max(
        (int(corpus.read(start, start + _BLOCK_TOKENS).max()) for start in starts.tolist()),
        default=-1,
    )


def check_wandb(config: RunConfig) -> None:
    """Check that the package wandb is installed if ``--wandb-project`` is given.

    Raises:
        ConfigError: it is not.
    """
    project = config.checkpoint.wandb_project
    if project and find_spec("wandb") is None:
        raise ConfigError(f"--wandb-project {project}: needs the package wandb; pip install 'megatron-ettin[wandb]'")


def check_save_folder(config: RunConfig) -> None:
    """Check that ``--save`` can be written, without creating it.

    Raises:
        ConfigError: it is a file, or its nearest existing parent cannot be written.
    """
    if not config.checkpoint.save:
        return
    save = Path(config.checkpoint.save).absolute()
    nearest = next(path for path in (save, *save.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{spell(config, 'save')}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{spell(config, 'save')}: {nearest} is not writable for this user")


def _refuse_suffix(path: str) -> None:
    prefix = Path(path)
    if prefix.suffix in (".bin", ".idx") and prefix.is_file():
        pair = f"{prefix.with_suffix('')}.bin/.idx"
        raise ConfigError(f"--data-path {path}: omit the {prefix.suffix} suffix; the prefix names the pair {pair}")
