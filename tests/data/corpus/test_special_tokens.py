"""Special tokens by role: named by the companion files, else by the literal names, whether flagged or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.data.corpus.special_tokens import token_ids
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.preprocess.block_encoder import BlockEncoder
from megatron_ettin.data.preprocess.encoders import LibraryEncoder
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import write_word_tokenizer

UNK, CLS, SEP, PAD, MASK, BOS, EOS = range(7)
"""Ids of the tokenizer's tokens: [UNK] to [MASK], <bos> and <eos>, of which the last two are not flagged."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_word_tokenizer(tmp_path / "tokenizer", ["<bos>", "<eos>", "a", "b"])


def load(folder: Path, config: Mapping[str, Any], roles: Mapping[str, Any] | None = None) -> TokenizerFiles:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if roles is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    return TokenizerFiles.load(folder)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (CLS, SEP, SEP)),
        ({"cls_token": None, "sep_token": None}, (CLS, SEP, SEP)),
        ({"bos_token": "<bos>", "eos_token": "<eos>"}, (BOS, EOS, EOS)),
        ({"cls_token": {"content": "<bos>"}, "sep_token": {"content": "<eos>"}}, (BOS, EOS, EOS)),
        ({"cls_token": "[CLS]", "bos_token": "<bos>", "sep_token": "[SEP]", "eos_token": "<eos>"}, (CLS, SEP, EOS)),
        ({"bos_token": "<eos>", "eos_token": "<eos>"}, (EOS, EOS, EOS)),
        ({"sep_token": "<missing>"}, (CLS, None, None)),
    ],
)
def test_roles_are_the_named_tokens_else_the_literal_ones(
    folder: Path, config: dict[str, Any], expected: tuple[int | None, ...]
) -> None:
    tokenizer = load(folder, config)
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.eos_id) == expected
    assert (tokenizer.pad_id, tokenizer.mask_id) == (PAD, MASK)
    assert (tokenizer.closing_id("mlm"), tokenizer.closing_id("clm")) == expected[1:]


def test_tokenizer_config_takes_precedence_over_the_map(folder: Path) -> None:
    tokenizer = load(folder, {"cls_token": "<bos>"}, {"cls_token": "<eos>", "sep_token": "<eos>"})
    assert (tokenizer.cls_id, tokenizer.sep_id) == (BOS, EOS)


def test_tokens_with_a_role_are_special_without_a_flag(folder: Path) -> None:
    assert load(folder, {}).special_ids == {UNK, CLS, SEP, PAD, MASK}
    assert load(folder, {"bos_token": "<bos>", "eos_token": "<eos>"}).special_ids == set(range(7))


def test_checkpoints_without_recorded_roles_keep_the_literal_names(folder: Path) -> None:
    tokenizer = load(folder, {"cls_token": "<bos>", "sep_token": "<eos>"})
    before = tokenizer.as_trained({"tokenizer": "..."})
    assert (before.cls_id, before.sep_id) == (CLS, SEP)
    assert before.special_ids == {UNK, CLS, SEP, PAD, MASK}
    assert before.special_tokens_differ
    assert not load(folder, {}).as_trained({"tokenizer": "..."}).special_tokens_differ
    recorded: list[dict[str, Any] | None] = [{}, None, {"special tokens": {}}]
    assert [tokenizer.as_trained(data_order).cls_id for data_order in recorded] == [BOS] * 3


@pytest.mark.parametrize("model", ["list", "mapping"])
def test_the_vocabulary_decides_the_id_of_an_added_token(model: str) -> None:
    """As the tokenizers library does."""
    vocabulary: Any = [["x", 0.0], ["[CLS]", 0.0]] if model == "list" else {"x": 0, "[CLS]": 1}
    added = [{"content": "[CLS]", "id": 7}, {"content": "[SEP]", "id": 2}]
    assert token_ids({"model": {"vocab": vocabulary}, "added_tokens": added}) == {"x": 0, "[CLS]": 1, "[SEP]": 2}


def encode(tokenizer: TokenizerFiles, value: Any) -> list[int]:
    encoder = BlockEncoder(tokenizer, LibraryEncoder(tokenizer), None, append_eod=True)
    ids: list[int] = encoder.encode([value], "here").ids.tolist()
    return ids


def test_append_eod_appends_the_end_of_a_text(folder: Path) -> None:
    assert encode(load(folder, {}), "a b") == [7, 8, SEP]
    assert encode(load(folder, {"eos_token": "<eos>"}), "a b") == [7, 8, EOS]
    both = load(folder, {"cls_token": "[CLS]", "bos_token": "<bos>", "sep_token": "[SEP]", "eos_token": "<eos>"})
    assert encode(both, "a b") == [7, 8, EOS]
    for given in ([CLS, 7, SEP], [BOS, 7, SEP]):
        assert encode(both, np.array(given)) == [7, SEP], "given ids that are closed stay as they are"
    assert both.end_tokens == (SEP, EOS)
    assert load(folder, {}).end_tokens == SEP
    with pytest.raises(ConfigError, match=r"--append-eod: .* has no <missing> token to append"):
        encode(load(folder, {"eos_token": "<missing>"}), "a b")
