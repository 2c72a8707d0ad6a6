"""Ids and properties of a tokenizer folder, against the tokenizers library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import write_word_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_word_tokenizer(tmp_path / "tokenizer", ["a", "b", "c"])


def change(folder: Path, **parts: Any) -> Path:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))
    return file


def test_ids_equal_the_librarys(folder: Path) -> None:
    ours, library = TokenizerFiles.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for role in ("cls", "sep", "pad", "mask"):
        assert getattr(ours, f"{role}_id") == library.token_to_id(f"[{role.upper()}]")
    assert ours.size == library.get_vocab_size() == 8
    assert ours.special_ids == {0, 1, 2, 3, 4}
    assert ours.encode_batch(["a c", "", "b"]) == [[5, 7], [], [6]]
    assert ours.decode([1, 5, 7, 2]) == "a c"


def test_added_tokens_count_and_missing_roles_are_none(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 8, "content": "[SEP2]", "special": False})
    file.write_text(json.dumps(content).replace("[SEP]", "[END]"))
    tokenizer = TokenizerFiles.load(file)
    assert tokenizer.size == 9
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    assert tokenizer.sep_id is None
    assert tokenizer.encode_batch(["a [SEP2]"]) == [[5, 8]]


def test_truncation_and_padding_of_the_file_are_ignored(folder: Path) -> None:
    change(
        folder,
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 4},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 3,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
    )
    assert TokenizerFiles.load(folder).encode_batch(["a b c a b", "c"]) == [[5, 6, 7, 5, 6], [7]]


def test_files_of_the_folder(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "other.txt").write_text("")
    tokenizer = TokenizerFiles.load(folder)
    assert sorted(tokenizer.folder_files()) == ["special_tokens_map.json", "tokenizer.json"]
    assert tokenizer.fingerprint == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"model": {"vocab": {}}, "added_tokens": []}', '{"model": {"vocab": 3}}']
)
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"--tokenizer-model .*tokenizer\.json is not a tokenizer"):
        TokenizerFiles.load(tmp_path)


def test_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*tokenizer\.json; give a folder with tokenizer\.json"):
        TokenizerFiles.load(tmp_path)


def test_a_tokenizer_that_the_library_rejects_is_refused(folder: Path) -> None:
    change(folder, pre_tokenizer={"type": "Unheard"})
    with pytest.raises(ConfigError, match=r"the tokenizers library says"):
        TokenizerFiles.load(folder).encode_batch(["a"])
