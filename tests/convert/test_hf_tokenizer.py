"""The released tokenizer, read by AutoTokenizer, adds the special tokens that training added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.convert.hf_tokenizer import (
    SpecialToken,
    copy_tokenizer,
    read_special_tokens,
    write_json,
    write_release_tokenizer,
)
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.errors import ConfigError
from tests.convert.samples import OBJECTIVES, TOKENS, write_tokenizer

CLS, SEP, PAD, MASK, UNK = range(5)


def released(folder: Path, objective: str) -> Any:
    from transformers import AutoTokenizer

    (folder / "source").mkdir()
    (folder / "target").mkdir()
    write_tokenizer(folder / "source")
    tokens = read_special_tokens(TokenizerFiles.load(folder / "source"), objective, 128)
    write_release_tokenizer(folder / "source", folder / "target", objective, tokens, 1024)
    return AutoTokenizer.from_pretrained(folder / "target")


def test_an_encoder_adds_sep_and_a_decoder_does_not(tmp_path: Path) -> None:
    for objective, expected in (("mlm", [CLS, 7, 8, SEP]), ("clm", [CLS, 7, 8])):
        (tmp_path / objective).mkdir()
        tokenizer = released(tmp_path / objective, objective)
        assert tokenizer("w7 w8").input_ids == expected
        assert tokenizer("w7 w8", add_special_tokens=False).input_ids == [7, 8]
        pair = [CLS, 7, SEP, 8, SEP] if objective == "mlm" else [CLS, 7, 8]
        assert tokenizer("w7", "w8").input_ids == pair


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_inputs_are_ids_and_mask_up_to_the_training_length(tmp_path: Path, objective: str) -> None:
    tokenizer = released(tmp_path, objective)
    long = tokenizer(" ".join(["w9"] * 2000), truncation=True)
    assert set(long) == {"input_ids", "attention_mask"}
    assert len(long["input_ids"]) == tokenizer.model_max_length == 1024
    assert len(tokenizer(" ".join(["w9"] * 20), add_special_tokens=False).input_ids) == 20, "truncation is off"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_special_tokens_have_their_roles(tmp_path: Path, objective: str) -> None:
    tokenizer = released(tmp_path, objective)
    roles = ("cls", "sep", "pad", "mask", "unk")
    assert [getattr(tokenizer, f"{role}_token_id") for role in roles] == [CLS, SEP, PAD, MASK, UNK]
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ends == ((CLS, SEP) if objective == "clm" else (None, None))
    assert len(tokenizer) == 128, "no token was added"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_encoder_pads_right_and_a_decoder_left(tmp_path: Path, objective: str) -> None:
    batch = released(tmp_path, objective)(["w7 w8", "w9"], padding=True)
    short = [CLS, 9, SEP, PAD] if objective == "mlm" else [PAD, CLS, 9]
    assert batch["input_ids"][1] == short


def test_the_mask_includes_the_space_before_it(tmp_path: Path) -> None:
    """Word tokens of a byte-level vocabulary include the space before them; a mask must not leave it over."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer

    words = {"[CLS]": 0, "[SEP]": 1, "[PAD]": 2, "[MASK]": 3, "a": 4, "Ġ": 5, "b": 6}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(f"[{role}]", special=True) for role in ("CLS", "SEP", "PAD", "MASK")])
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    tokenizer.save(str(tmp_path / "source" / "tokenizer.json"))
    assert tokenizer.encode("a [MASK]b").ids == [4, 5, 3, 6]
    tokens = read_special_tokens(TokenizerFiles.load(tmp_path / "source"), "mlm", 8)
    assert tokens.unk is None
    write_release_tokenizer(tmp_path / "source", tmp_path / "target", "mlm", tokens, 64)
    assert AutoTokenizer.from_pretrained(tmp_path / "target")("a [MASK]b").input_ids == [0, 4, 3, 6, 1]


def test_the_tokenizer_config_names_the_roles(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"cls_token": {"content": "w9"}, "sep_token": None})
    write_json(tmp_path / "special_tokens_map.json", {"pad_token": "w10", "cls_token": "w11"})
    tokens = read_special_tokens(TokenizerFiles.load(tmp_path), "mlm", 128)
    assert tokens.cls == SpecialToken("w9", 9), "tokenizer_config.json takes precedence"
    assert tokens.pad == SpecialToken("w10", 10)
    assert tokens.sep == TOKENS.sep


@pytest.mark.parametrize("role", ["cls", "sep", "pad", "mask"])
def test_a_missing_token_is_reported_by_name(tmp_path: Path, role: str) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace(f"[{role.upper()}]", "[OTHER]"))
    write_json(tmp_path / "tokenizer_config.json", {})
    with pytest.raises(ConfigError, match=rf"has no \[{role.upper()}\] token, which mlm models need"):
        read_special_tokens(TokenizerFiles.load(tmp_path), "mlm", 128)
    if role == "mask":
        assert read_special_tokens(TokenizerFiles.load(tmp_path), "clm", 128).mask is None


@pytest.mark.parametrize("content", [{}, {"model": {"vocab": 3}, "added_tokens": []}, {"model": {}}])
def test_a_broken_tokenizer_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not a tokenizer of the tokenizers library"):
        read_special_tokens(TokenizerFiles.load(tmp_path), "clm", 128)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="token id 127 is outside the model's vocabulary of 127"):
        read_special_tokens(TokenizerFiles.load(tmp_path), "clm", 127)


def test_copies_are_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    write_tokenizer(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").write_bytes(b"no tokenizer")
    copy_tokenizer(tmp_path / "source", tmp_path / "target")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    for path in (tmp_path / "target").iterdir():
        assert path.read_bytes() == (tmp_path / "source" / path.name).read_bytes()


def test_written_json_keeps_every_character(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"Ġä": "\u2028"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"Ġä": "\u2028"}
