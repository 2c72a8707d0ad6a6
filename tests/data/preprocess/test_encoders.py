"""The choice of encoder; its ids equal those of the tokenizers library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.data.preprocess import encoders
from megatron_ettin.data.preprocess.block_encoder import BlockEncoder
from megatron_ettin.data.preprocess.encoders import GigatokenEncoder, LibraryEncoder, choose_encoder, load_encoder
from megatron_ettin.data.preprocess.starter_text import standard_library
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import write_word_tokenizer


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFiles:
    """A byte-level BPE with a [MASK] that takes the space before it, and a post-processor."""
    folder = tmp_path_factory.mktemp("bpe")
    texts = [document.text for document, _ in zip(standard_library(), range(100), strict=False)]
    save_tokenizer(train_tokenizer(texts, 1000), folder)
    return TokenizerFiles.load(folder)


def test_gigatoken_is_used_where_it_agrees(bpe: TokenizerFiles) -> None:
    encoder, reason = choose_encoder(bpe, ["def f(x):\n    return [SEP] x [MASK]  y"])
    assert isinstance(encoder, GigatokenEncoder)
    assert reason.startswith("same ids as tokenizers ")
    assert type(load_encoder(bpe, encoder.name)) is GigatokenEncoder
    with pytest.raises(ConfigError, match=r"a worker has gigatoken .*, the run began with gigatoken 0\.0"):
        load_encoder(bpe, "gigatoken 0.0")


@settings(max_examples=150)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_ids_equal_the_library_on_any_text(bpe: TokenizerFiles, texts: list[str]) -> None:
    library = Tokenizer.from_file(str(bpe.path))
    expected = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert [ids.tolist() for ids in GigatokenEncoder(bpe).encode(texts)] == expected
    assert [ids.tolist() for ids in LibraryEncoder(bpe).encode(texts)] == expected


def test_a_mask_that_strips_spaces_is_matched_before_space_tokens(bpe: TokenizerFiles, tmp_path: Path) -> None:
    """As in ModernBERT's tokenizer, whose vocabulary has runs of spaces as added tokens."""
    library = Tokenizer.from_file(str(bpe.path))
    library.add_tokens(["  ", "    "])
    library.save(str(tmp_path / "tokenizer.json"))
    both = TokenizerFiles.load(tmp_path)
    text = "a  [MASK] b\n  c    [MASK]"
    encoder, _ = choose_encoder(both, [text])
    assert isinstance(encoder, GigatokenEncoder)
    expected = library.encode(text, add_special_tokens=False).ids
    first, _ = encoder.encode([text, "d  e"])
    assert first.tolist() == expected


def test_memory_of_gigatoken_is_bounded(bpe: TokenizerFiles) -> None:
    encoder = GigatokenEncoder(bpe, cache_bytes=32 << 20)
    rng = np.random.default_rng(0)
    (before,) = encoder.encode(["def f(x):\n"])
    start = largest = encoders.resident_bytes()
    for _ in range(40):
        letters = rng.integers(ord("a"), ord("z") + 1, 500_000, np.uint8)
        letters[::9] = ord(" ")  # words that do not repeat
        encoder.encode([letters.tobytes().decode()])
        largest = max(largest, encoders.resident_bytes())
    assert largest - start < 120 << 20  # above 300 MB without the bound
    assert encoder.encode(["def f(x):\n"])[0].tolist() == before.tolist()


def test_an_unsupported_tokenizer_falls_back_to_the_library(tmp_path: Path) -> None:
    tokenizer = TokenizerFiles.load(write_word_tokenizer(tmp_path / "t", ["a", "b"]))
    encoder, reason = choose_encoder(tokenizer, ["a b"])
    assert isinstance(encoder, LibraryEncoder)
    assert reason.startswith("gigatoken does not support this tokenizer (")
    assert [ids.tolist() for ids in encoder.encode(["a b", ""])] == [[5, 6], []]


def test_a_difference_on_the_sample_falls_back_to_the_library(
    bpe: TokenizerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = GigatokenEncoder.encode

    def wrong(self: GigatokenEncoder, texts: Any) -> Any:
        return [
            ids[:-1] if text.startswith("Zürich") else ids for text, ids in zip(texts, right(self, texts), strict=True)
        ]

    monkeypatch.setattr(encoders.GigatokenEncoder, "encode", wrong)
    assert isinstance(choose_encoder(bpe, ["Bern"])[0], GigatokenEncoder)
    encoder, reason = choose_encoder(bpe, ["Bern", "Zürich am See"])
    assert isinstance(encoder, LibraryEncoder)
    assert reason.startswith("gigatoken encodes ")
    assert "See" in reason


def block(bpe: TokenizerFiles, values: list[Any], *, append_eod: bool) -> tuple[list[int], list[int], list[int]]:
    encoded = BlockEncoder(bpe, GigatokenEncoder(bpe), None, append_eod=append_eod).encode(values, "--input f")
    assert encoded.ids.dtype == np.uint16
    return encoded.ids.tolist(), encoded.lengths.tolist(), encoded.counts.tolist()


def test_end_tokens_and_given_ids(bpe: TokenizerFiles) -> None:
    cls, sep = bpe.cls_id, bpe.sep_id
    (a,), (b,) = bpe.encode_batch(["a", "b"])
    given_ids = [np.array([cls, 50, 60, sep]), np.array([50], np.uint64), np.array([], np.int64), np.array([cls])]
    values = ["ab a", "", ["a", "", "b"], *given_ids]
    text = bpe.encode_batch(["ab a"])[0]
    ids, lengths, counts = block(bpe, values, append_eod=False)
    assert ids == [*text, a, b, 50, 60, sep, 50]
    assert lengths == [len(text), 1, 1, 3, 1]
    assert counts == [1, 0, 2, 1, 1, 0, 0]
    ids, lengths, counts = block(bpe, values, append_eod=True)
    assert ids == [*text, sep, a, b, sep, 50, 60, sep, 50, sep]
    assert lengths == [len(text) + 1, 1, 2, 3, 2]
    assert counts == [1, 0, 2, 1, 1, 0, 0]
    assert block(bpe, [], append_eod=True) == ([], [], [])


def test_ids_outside_the_vocabulary_are_refused(bpe: TokenizerFiles) -> None:
    with pytest.raises(ConfigError, match=r"--input f: contains token id 1000; the tokenizer has 1000 tokens"):
        block(bpe, [np.array([5, 1000])], append_eod=False)
    with pytest.raises(ConfigError, match=r"negative token id -1"):
        block(bpe, [np.array([5, -1])], append_eod=False)
