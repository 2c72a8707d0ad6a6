"""Tokens with a role are never masked, drawn or predicted, whether tokenizer.json flags them or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.data.chunks import Chunk
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.objectives.mlm import build_masker
from megatron_ettin.objectives.objective import Objective, build_objective
from tests.helpers.corpora import write_word_tokenizer
from tests.helpers.runs import tiny_run

CLS, SEP, PAD, MASK, BOS, EOS = 1, 2, 3, 4, 5, 6
WORDS = range(7, 40)


def unflagged(folder: Path, **config: str) -> TokenizerFiles:
    write_word_tokenizer(folder, ["<bos>", "<eos>", *(f"w{i}" for i in WORDS)])
    content = json.loads((folder / "tokenizer.json").read_text())
    for added in content["added_tokens"]:
        added["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return TokenizerFiles.load(folder)


def test_unflagged_tokens_are_neither_chosen_nor_drawn(tmp_path: Path) -> None:
    masker = build_masker(tiny_run("mlm").data, unflagged(tmp_path, bos_token="<bos>", eos_token="<eos>"))
    tokens = np.tile(np.array([9, 10, EOS, 11, BOS, MASK, 12, PAD]), 4000)
    is_role = np.isin(tokens, [BOS, EOS, PAD, MASK])
    generator = np.random.default_rng(0)
    chosen, replaced = masker.mask(tokens, np.ones(len(tokens), bool), np.array([0, len(tokens)]), [generator], 0.3)
    assert chosen.any()
    assert not chosen[is_role].any()
    assert not np.isin(replaced[chosen], [0, BOS, EOS, PAD]).any()


def batch_of(objective: Objective, tokens: list[int]) -> Any:
    return objective.eval_batch([(Chunk(0, 0, np.array(tokens), ends_document=True),)])


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_batches_have_the_named_tokens(tmp_path: Path, name: str) -> None:
    tokenizer = unflagged(tmp_path, bos_token="<bos>", eos_token="<eos>")
    tokens = batch_of(build_objective(tiny_run(name), tokenizer), [9, 10, 11]).tokens_T
    assert (tokens[0], tokens[-1]) == (BOS, EOS)


def test_a_decoder_predicts_no_role_but_the_end(tmp_path: Path) -> None:
    roles = {"cls_token": "[CLS]", "bos_token": "<bos>", "sep_token": "[SEP]", "eos_token": "<eos>"}
    decoder = build_objective(tiny_run("clm"), unflagged(tmp_path / "differ", **roles))
    assert batch_of(decoder, [9, SEP, BOS, 10, MASK, PAD, CLS, 11]).labels_K.tolist() == [9, 10, 11, EOS]
    same = unflagged(tmp_path / "same", bos_token="<eos>", eos_token="<eos>", pad_token="<eos>")
    assert batch_of(build_objective(tiny_run("clm"), same), [9, 10]).labels_K.tolist() == [9, 10, EOS]
