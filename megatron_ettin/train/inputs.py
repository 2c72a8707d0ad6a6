"""Files a run reads: present, whole, and fitting each other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import spell
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.indexed import IndexedTokens
from megatron_ettin.data.splits import SPLIT_NAMES, split_documents
from megatron_ettin.data.tokenizer import TokenizerFiles

VOCAB_MULTIPLE = 64
"""A vocabulary that the tokenizer decides is rounded up to a multiple of this, as the published 50,368 is."""

SCANNED_TOKENS = 2**31
"""The token ids of a corpus up to this size are all looked at, of a larger one evenly spread blocks of this size."""

_BLOCK_TOKENS = 2**22

_NEEDED_TOKENS = {
    "mlm": ("cls", "sep", "pad", "mask"),
    "mntp": ("cls", "sep", "pad", "mask"),
    "clm": ("cls", "sep", "pad"),
}


def load_tokenizer(run: RunConfig) -> TokenizerFiles | None:
    """Return the tokenizer, or None where none is named (a dry run).

    Raises:
        ConfigError: there is no tokenizer, or it lacks a special token that the objective needs.
    """
    if not run.data.tokenizer_model:
        return None
    tokenizer = TokenizerFiles.load(run.data.tokenizer_model)
    for role in _NEEDED_TOKENS[run.training.objective]:
        if getattr(tokenizer, f"{role}_id") is None:
            rule = f"has no [{role.upper()}] token, which {spell(run, 'objective')} needs"
            raise ConfigError(f"{spell(run, 'tokenizer_model')}: {rule}")
    return tokenizer


def resolve_vocabulary(run: RunConfig, tokenizer: TokenizerFiles) -> RunConfig:
    """Return the run with its vocabulary size known, large enough for the tokenizer.

    Raises:
        ConfigError: the given size is smaller than the tokenizer's.
    """
    if not run.model.vocab_size:
        return run.with_values({"vocab_size": -(-tokenizer.size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE})
    if run.model.vocab_size < tokenizer.size:
        rule = f"{spell(run, 'tokenizer_model')} has {tokenizer.size} tokens, and each needs a row"
        raise ConfigError(f"{spell(run, 'vocab_size')}: {rule}")
    return run


def check_corpus(run: RunConfig, tokenizer: TokenizerFiles | None) -> None:
    """Look at the corpus, where one is named.

    Raises:
        ConfigError: a file is missing or damaged, a split that is needed is empty, or a token id has no embedding row.
    """
    if not run.data.data_path:
        return
    _refuse_suffix(run)
    corpus = IndexedTokens(run.data.data_path)
    documents = dict(zip(SPLIT_NAMES, split_documents(corpus.num_documents, run.data.split), strict=True))
    needed = "validation" if run.training.eval_only else "training"
    if len(documents[needed]) == 0:
        rule = f"leaves no document for {needed} out of the {corpus.num_documents} of {spell(run, 'data_path')}"
        raise ConfigError(f"{spell(run, 'split')}: {rule}")
    largest = largest_token(corpus.tokens)
    limit, owner = run.model.vocab_size, spell(run, "vocab_size")
    if tokenizer is not None:
        limit, owner = tokenizer.size, spell(run, "tokenizer_model")
    if largest >= limit:
        rule = f"holds token id {largest}, and {owner} has {limit} tokens: it was written with another tokenizer"
        raise ConfigError(f"{spell(run, 'data_path')}: {rule}")


def largest_token(tokens: NDArray[np.integer]) -> int:
    """Return the largest token id, or of a corpus above SCANNED_TOKENS the largest of what is looked at."""
    num_blocks = -(-len(tokens) // _BLOCK_TOKENS)
    looked_at = min(num_blocks, SCANNED_TOKENS // _BLOCK_TOKENS)
    starts = np.unique(np.linspace(0, num_blocks - 1, looked_at).astype(np.int64)) * _BLOCK_TOKENS
    return max((int(tokens[start : start + _BLOCK_TOKENS].max()) for start in starts), default=-1)


def check_save_folder(run: RunConfig) -> None:
    """Find out whether ``--save`` can be written, without making it.

    Raises:
        ConfigError: it is a file, or its nearest existing parent cannot be written.
    """
    if not run.checkpoint.save:
        return
    save = Path(run.checkpoint.save).absolute()
    nearest = next(path for path in (save, *save.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{spell(run, 'save')}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{spell(run, 'save')}: {nearest} is not writable for this user")


def _refuse_suffix(run: RunConfig) -> None:
    prefix = Path(run.data.data_path)
    if prefix.suffix in (".bin", ".idx") and prefix.is_file():
        pair = f"{prefix.with_suffix('')}.bin/.idx"
        raise ConfigError(f"{spell(run, 'data_path')}: leave {prefix.suffix} away, the prefix names the pair {pair}")
