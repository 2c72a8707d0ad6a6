"""Random tokenizers and texts: the chosen encoder always gives the ids of the tokenizers library."""

from __future__ import annotations

import json
import os
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.data.preprocess.encoders import GigatokenEncoder, choose_encoder

NUM_TOKENIZERS = int(os.environ.get("FUZZ_TOKENIZERS", "200"))
TEXTS_EACH = 60
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLIT = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
PRE_TOKENIZERS: list[Any] = [
    BYTES,
    {**BYTES, "add_prefix_space": True},
    {**BYTES, "use_regex": False},
    {"type": "Sequence", "pretokenizers": [SPLIT, {**BYTES, "use_regex": False}]},
    None,
    {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
]
NFC = {"type": "NFC"}
NORMALIZERS: list[Any] = [
    None,
    NFC,
    {"type": "Sequence", "normalizers": [NFC]},
    {"type": "NFKC"},
    {"type": "Lowercase"},
]
PARTS = [
    *"abe1<>|[]_- \n\tK",
    *("  ", "run", "ing", "23", "'s", "'S", "caf", "CAF", "the"),
    *("\u00e9", "e\u0301", "\u0301", "\u0327", "\u0338", "\u0334", "\u0345", "\u1100", "\u1161", "\uac00", "\u212a"),
    *("\u00a0", "\u2028", "\u0085", "\u180e", "\u200b", "\u3000", "\x1c", "\ufb01", "\u0130", "\u30ab\u3099"),
    *("\u0bc6\u0bbe", "\u0e33", "\u05d0\u05bc", "\u0915\u093c", "\U0001f600", "\U000113c2", "\U00016d67"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bpe")
    save_tokenizer(train_tokenizer(["the running of the cafe, prerun in 123 runs"] * 3, 280), folder)
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_bytes())
    return content


def random_tokenizer(rng: random.Random, base: dict[str, Any]) -> dict[str, Any]:
    added = list(base["added_tokens"])
    seen = {unicodedata.normalize("NFKC", token["content"]).lower() for token in added}
    vocabulary = base["model"]["vocab"]
    number = max(*vocabulary.values(), *(token["id"] for token in added)) + 1
    used = [flag for flag in FLAGS if rng.random() < 0.6]
    for _ in range(rng.choice([0, 1, 3, 8, 80])):
        content = "".join(rng.choices(PARTS, k=rng.randint(1, 3)))
        normalized = unicodedata.normalize("NFKC", content).lower()
        if normalized not in seen:  # of tokens that normalize alike, the library chooses one at random
            seen.add(normalized)
            flags = {flag: flag in used and rng.random() < 0.4 for flag in FLAGS}
            added.append({"id": vocabulary.get(content, number), "content": content, **flags})
            number += content not in vocabulary
    rules = {"normalizer": rng.choice(NORMALIZERS), "pre_tokenizer": rng.choice(PRE_TOKENIZERS)}
    return {**base, **rules, "added_tokens": added}


def random_text(rng: random.Random, tokens: list[str]) -> str:
    parts = []
    for _ in range(rng.randint(0, 12)):
        kind = rng.random()
        point = rng.randrange(0x3000 if rng.random() < 0.5 else 0x110000)
        any_character = "a" if 0xD800 <= point < 0xE000 else chr(point)
        parts.append(rng.choice(tokens) if kind < 0.25 else rng.choice(PARTS) if kind < 0.9 else any_character)
    return "".join(parts)


@pytest.mark.slow
def test_the_chosen_encoder_gives_the_ids_of_the_library(base: dict[str, Any], tmp_path: Path) -> None:
    num_fast = 0
    for seed in range(NUM_TOKENIZERS):
        rng = random.Random(seed)
        content = random_tokenizer(rng, base)
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        encoder, reason = choose_encoder(TokenizerFiles.load(tmp_path), ["plain words"])
        num_fast += isinstance(encoder, GigatokenEncoder)
        library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for _ in range(TEXTS_EACH):
            text = random_text(rng, [token["content"] for token in content["added_tokens"]])
            try:
                expected = library.encode(text, add_special_tokens=False).ids
            except BaseException as error:  # the library panics on some tokens that strip overlapping spaces
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                continue
            (ids,) = encoder.encode([text])
            assert ids.tolist() == expected, f"seed {seed}, {text!r}, {reason}"
    assert num_fast > NUM_TOKENIZERS // 10
