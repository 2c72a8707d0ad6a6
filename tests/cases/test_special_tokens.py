"""Tokenizers with other special tokens than [CLS], [SEP], [PAD] and [MASK], from preprocessing to the release."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.objectives import is_encoder
from megatron_ettin.convert.check_tokenizer import compare_tokenizers
from megatron_ettin.convert.hf_tokenizer import read_special_tokens, write_release_tokenizer
from megatron_ettin.data.chunks import Chunk
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.data.preprocess.run import preprocess
from megatron_ettin.data.preprocess.settings import PreprocessSettings
from megatron_ettin.objectives.objective import build_objective
from tests.helpers.corpora import read_documents
from tests.helpers.runs import tiny_run

TEXTS = ["a special token has one meaning", "the released tokenizer encodes as training does"] * 20
RENAMED = {"[CLS]": "<bos>", "[SEP]": "<eos>", "[PAD]": "<pad>", "[MASK]": "<mask>", "[UNK]": "<unk>"}


def rename(value: Any) -> Any:
    if isinstance(value, dict):
        return {RENAMED.get(key, key): rename(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rename(item) for item in value]
    return RENAMED.get(value, value) if isinstance(value, str) else value


def other_names(tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """As mmBERT's tokenizer, after Gemma's."""
    for content in (tokenizer, config):
        renamed = rename(content)
        content.clear()
        content.update(renamed)


def generative_names(tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """The roles cls and sep are not named, only bos and eos."""
    other_names(tokenizer, config)
    config["bos_token"], config["eos_token"] = config.pop("cls_token"), {"content": config.pop("sep_token")}


def both_names(tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """The vocabulary has [CLS] ... [MASK], and the config gives their roles to other tokens."""
    roles = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    first = max(tokenizer["model"]["vocab"].values()) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for number, token in enumerate(roles.values()):
        tokenizer["added_tokens"].append({"id": first + number, "content": token, **flags, "special": True})
    config |= roles


def unflagged(tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    for added in tokenizer["added_tokens"]:
        added["special"] = False


def separate_end(tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """Documents end with another token than chunks."""
    both_names(tokenizer, config)
    config |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "</s>"}


CASES: dict[Callable[..., None], tuple[str, str, str]] = {
    other_names: ("<bos>", "<eos>", "<eos>"),
    generative_names: ("<bos>", "<eos>", "<eos>"),
    both_names: ("<s>", "</s>", "</s>"),
    unflagged: ("[CLS]", "[SEP]", "[SEP]"),
    separate_end: ("[CLS]", "[SEP]", "</s>"),
}
"""Changes of a tokenizer, and its start, separator and end of a text."""


@pytest.fixture(params=CASES, ids=lambda change: change.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[TokenizerFiles, tuple[str, str, str]]:
    folder = tmp_path / "tokenizer"
    save_tokenizer(train_tokenizer(TEXTS, 280), folder)
    contents = [json.loads((folder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json")]
    request.param(*contents)
    for name, content in zip(("tokenizer.json", "tokenizer_config.json"), contents, strict=True):
        (folder / name).write_text(json.dumps(content))
    (folder / "special_tokens_map.json").unlink()
    return TokenizerFiles.load(folder), CASES[request.param]


Case = tuple[TokenizerFiles, tuple[str, str, str]]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_the_release_encodes_as_batches_are_assembled(tmp_path: Path, case: Case, objective: str) -> None:
    from transformers import AutoTokenizer

    tokenizer, (start, separator, end) = case
    closing = separator if is_encoder(objective) else end
    content = tokenizer.encode_batch([TEXTS[0]])[0]
    chunk = Chunk(0, 0, np.array(content), ends_document=True)
    batch = build_objective(tiny_run(objective), tokenizer).eval_batch([(chunk,)])
    trained = batch.tokens_T.copy()
    if is_encoder(objective):
        trained[batch.scored_K] = batch.labels_K
    assert trained.tolist() == [tokenizer.ids[start], *content, tokenizer.ids[closing]]
    released = tmp_path / "released"
    released.mkdir()
    tokens = read_special_tokens(tokenizer, objective, tokenizer.size)
    write_release_tokenizer(tokenizer.path.parent, released, objective, tokens, 64)
    assert compare_tokenizers(released, tokenizer, objective) == ""
    encoded = AutoTokenizer.from_pretrained(released)(TEXTS[0]).input_ids
    assert encoded == (trained.tolist() if is_encoder(objective) else trained.tolist()[:-1])


def test_append_eod_appends_the_end_that_training_removes(tmp_path: Path, case: Case) -> None:
    tokenizer, (_, _, end) = case
    (tmp_path / "c.txt").write_text("\n".join(TEXTS))
    preprocess(
        PreprocessSettings(
            input=(str(tmp_path / "c.txt"),),
            output_prefix=str(tmp_path / "c"),
            tokenizer_model=str(tokenizer.path.parent),
            text_documents="line",
            append_eod=True,
            workers=1,
        )
    )
    documents = read_documents(IndexedTokens(tmp_path / "c_text_document"))
    contents = tokenizer.encode_batch(TEXTS)
    assert documents == [[*content, tokenizer.ids[end]] for content in contents]
    assert np.isin(tokenizer.ids[end], tokenizer.end_tokens or ())
