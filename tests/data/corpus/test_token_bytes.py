"""Bytes of byte-level tokens, against the tokenizers library, and the words and sentences they form."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from megatron_ettin.data.corpus.token_bytes import byte_alphabet, sentence_ends, token_bytes, word_starts
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import write_word_tokenizer

TEXT = (
    "The cat (a tabby) sat.\n\nIt's 12\u00b0 outside"
    " \u2014 na\u00efve caf\u00e9\u2026 \u4f60\u597d\u3002 \U0001f600\ttab end"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFiles:
    folder = tmp_path_factory.mktemp("bytes")
    save_tokenizer(train_tokenizer([TEXT, "the cat sat on the mat. " * 20], 320), folder)
    return TokenizerFiles.load(folder)


def test_the_alphabet_is_that_of_the_tokenizers_library() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet) == sorted(ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    shown = ByteLevel(add_prefix_space=False, use_regex=False)
    for character in {chr(code) for code in range(0x250)} | set(TEXT):
        [(spelled, _)] = shown.pre_tokenize_str(character)
        assert bytes(alphabet[letter] for letter in spelled) == character.encode()


def test_tokens_spell_the_text(tokenizer: TokenizerFiles) -> None:
    known = token_bytes(tokenizer, "--flag")
    [ids] = tokenizer.encode_batch([TEXT])
    assert b"".join(known[number] or b"" for number in ids) == TEXT.encode()
    assert all(known[number] is None for number in tokenizer.special_ids)


def test_words_are_separated_by_white_space(tokenizer: TokenizerFiles) -> None:
    starts, known = word_starts(tokenizer, "--flag"), token_bytes(tokenizer, "--flag")
    [ids] = tokenizer.encode_batch([TEXT])
    words: list[bytes] = []
    for place, number in enumerate(ids):
        text = known[number]
        assert text is not None
        if place == 0 or starts[number]:
            words.append(b"")
        words[-1] += text
    assert [word.decode().strip() for word in words if word.strip()] == TEXT.split(), "no character is split"


def test_only_white_space_bytes_start_a_word(tokenizer: TokenizerFiles) -> None:
    starts = word_starts(tokenizer, "--flag")
    known = token_bytes(tokenizer, "--flag")
    single = {text[0]: number for number, text in enumerate(known) if text is not None and len(text) == 1}
    assert sorted(single) == list(range(256))
    assert {byte for byte, number in single.items() if starts[number]} == set(b" \t\n\r\v\f")


def test_sentences_end_at_punctuation_and_line_breaks(tokenizer: TokenizerFiles) -> None:
    ends, known = sentence_ends(tokenizer, "--flag"), token_bytes(tokenizer, "--flag")
    by_bytes = {text: bool(ends[number]) for number, text in enumerate(known) if text is not None}
    for text, expected in ((b".", True), (b"!", True), (b"?", True), (b"\n", True), (b",", False), (b"a", False)):
        assert by_bytes[text] is expected
    assert not any(ends[number] for number in tokenizer.special_ids)


def test_a_tokenizer_without_bytes_is_refused(tmp_path: Path) -> None:
    words = TokenizerFiles.load(write_word_tokenizer(tmp_path, ["a", "b"]))
    with pytest.raises(ConfigError, match="--masking whole-word: needs a byte-level BPE"):
        word_starts(words, "--masking whole-word")
    assert Tokenizer.from_file(str(words.path)).get_vocab_size() == 7
