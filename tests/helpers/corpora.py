"""Small corpora and tokenizers."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.indexed_writer import IndexedWriter

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def write_word_tokenizer(folder: Path, words: Sequence[str]) -> Path:
    """Write a tokenizer of whole words: ids 0 to 4 are special, followed by ``words`` in order."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *words))}
    added = [
        {
            "id": i,
            "content": t,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, t in enumerate(SPECIAL)
    ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def write_byte_tokenizer(folder: Path) -> Path:
    """Write a byte-level BPE without merges: "a", "b", "c" and the space are 5 to 8, followed by the other bytes."""
    write_word_tokenizer(folder, [])
    content = json.loads((folder / "tokenizer.json").read_text())
    first = ["a", "b", "c", "Ġ"]
    others = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324)) if chr(code) not in first]
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *first, *others))}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model: dict[str, object] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocabulary,
        "merges": [],
    }
    content.update(pre_tokenizer=level, decoder=level, model=model)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def write_corpus(prefix: Path, documents: Sequence[Sequence[int] | NDArray[np.integer]]) -> str:
    """Write documents of token ids as a .bin/.idx pair and return the prefix."""
    with IndexedWriter(prefix, np.uint16) as writer:
        for document in documents:
            writer.add_document(np.asarray(document))
    return str(prefix)


def open_corpus(documents: Sequence[Sequence[int] | NDArray[np.integer]]) -> IndexedTokens:
    """Write documents to a temporary folder, which is removed with the corpus that is returned."""
    folder = TemporaryDirectory()
    corpus = IndexedTokens(write_corpus(Path(folder.name) / "c", documents))
    weakref.finalize(corpus, folder.cleanup)
    return corpus


def read_documents(corpus: IndexedTokens) -> list[list[int]]:
    """Return the token ids of each document."""
    bounds = pairwise(corpus.document_starts[:].tolist())
    return [corpus.tokens[start:stop].tolist() for start, stop in bounds]


def numbered_documents(lengths: Sequence[int], *, sep_id: int | None = None) -> list[list[int]]:
    """Return documents whose tokens all differ, from 10 on; ``sep_id`` ends those that are not empty."""
    tokens = count(10)
    end = [] if sep_id is None else [sep_id]
    return [[next(tokens) for _ in range(length)] + (end if length else []) for length in lengths]


def babble(num_documents: int, vocab_size: int, *, seed: int = 0) -> list[np.ndarray]:
    """Return documents in which each token largely determines the next, so that all objectives can learn.

    Each word has three successors, of which the first is the most likely.
    """
    rng = np.random.default_rng(seed)
    followers = rng.integers(len(SPECIAL), vocab_size, (vocab_size, 3))
    documents = []
    for length in rng.integers(5, 200, num_documents):
        words = [int(rng.integers(len(SPECIAL), vocab_size))]
        for choice in rng.choice(3, length - 1, p=[0.7, 0.2, 0.1]):
            words.append(int(followers[words[-1], choice]))
        documents.append(np.array(words))
    return documents
