"""All objectives see the same chunks in the same order and differ only in their masks and targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.rows import RowDataset
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.runs import tiny_run

CLS, SEP, PAD, MASK = 1, 2, 3, 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> RowDataset:
    folder = tmp_path_factory.mktemp("rows")
    corpus = IndexedTokens(write_corpus(folder / "c", babble(40, 100)))
    return RowDataset(corpus, range(40), 64, sep_id=SEP, seed=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFiles:
    folder = tmp_path_factory.mktemp("tokenizer")
    return TokenizerFiles.load(write_word_tokenizer(folder, [f"w{i}" for i in range(5, 100)]))


def build(tokenizer: TokenizerFiles, objective: str, **overrides: Any) -> Any:
    from megatron_ettin.objectives.objective import build_objective

    return build_objective(tiny_run(objective, **overrides), tokenizer)


def originals(rows: RowDataset, samples: list[int]) -> list[int]:
    return [int(token) for sample in samples for chunk in rows.row(sample) for token in chunk.tokens]


def test_same_content_in_the_same_order(rows: RowDataset, tokenizer: TokenizerFiles) -> None:
    samples = [3, 0, 7]
    given = [rows.row(sample) for sample in samples]
    encoder = build(tokenizer, "mlm").train_batch(given, samples)
    decoder = build(tokenizer, "clm").train_batch(given, samples)
    restored = encoder.tokens_T.copy()
    restored[encoder.scored_K] = encoder.labels_K
    for tokens in (restored, decoder.tokens_T):
        assert [t for t in tokens.tolist() if t not in (CLS, SEP)] == originals(rows, samples)
    assert (restored == CLS).sum() == (restored == SEP).sum() == len(encoder.cu_seqlens) - 1
    ends = sum(chunk.ends_document for row in given for chunk in row)
    assert (decoder.tokens_T == SEP).sum() == ends
    assert encoder.real_tokens == len(encoder.tokens_T)


def test_a_decoder_may_close_every_chunk(rows: RowDataset, tokenizer: TokenizerFiles) -> None:
    given = [rows.row(sample) for sample in range(8)]
    chunks = [chunk for row in given for chunk in row]
    cut = sum(not chunk.ends_document for chunk in chunks)
    assert cut > 0
    plain, closed = (build(tokenizer, "clm", close_every_piece=closes).eval_batch(given) for closes in (False, True))
    assert (closed.tokens_T == SEP).sum() == len(chunks)
    assert closed.real_tokens - plain.real_tokens == len(closed.labels_K) - len(plain.labels_K) == cut
    encoder = build(tokenizer, "mlm").eval_batch(given)
    encoder.tokens_T[encoder.scored_K] = encoder.labels_K
    assert closed.tokens_T.tolist() == encoder.tokens_T.tolist()


def test_masks_are_keyed_by_sample_and_not_by_batch(rows: RowDataset, tokenizer: TokenizerFiles) -> None:
    objective = build(tokenizer, "mlm", mlm_probability=0.3)
    together = objective.train_batch([rows.row(s) for s in (4, 9)], [4, 9])
    alone = [objective.train_batch([rows.row(s)], [s]) for s in (4, 9)]
    np.testing.assert_array_equal(together.tokens_T, np.concatenate([batch.tokens_T for batch in alone]))
    np.testing.assert_array_equal(together.labels_K, np.concatenate([batch.labels_K for batch in alone]))
    next_epoch = 4 + rows.num_rows
    other = objective.train_batch([rows.row(4)], [next_epoch])
    assert other.scored_K.tolist() != alone[0].scored_K.tolist()


def test_evaluation_masks_do_not_depend_on_rows_or_seed(rows: RowDataset, tokenizer: TokenizerFiles) -> None:
    chunks = [chunk for sample in range(6) for chunk in rows.row(sample)]
    batches = [
        build(tokenizer, "mlm", seed=1).eval_batch([tuple(chunks)]),
        build(tokenizer, "mlm", seed=2).eval_batch([(chunk,) for chunk in chunks]),
    ]
    np.testing.assert_array_equal(batches[0].tokens_T, batches[1].tokens_T)
    share = len(batches[0].scored_K) / sum(len(chunk.tokens) for chunk in chunks)
    assert 0.11 < share < 0.19


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_special_tokens_in_the_text_are_not_scored(objective: str, rows: RowDataset, tokenizer: TokenizerFiles) -> None:
    from megatron_ettin.data.chunks import Chunk

    row = (Chunk(0, 0, np.array([PAD, MASK, SEP, 9, CLS]), True),)
    batch = build(tokenizer, objective, mlm_probability=1.0).train_batch([row], [0])
    if objective == "mlm":
        assert batch.labels_K.tolist() == [9]
    else:
        assert batch.labels_K.tolist() == [SEP, 9, SEP]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_sequence_parallel_pads_to_its_size(objective: str, rows: RowDataset, tokenizer: TokenizerFiles) -> None:
    plain = build(tokenizer, objective).train_batch([rows.row(1)], [1])
    overrides = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
    for sample in range(4):
        filled = build(tokenizer, objective, **overrides).train_batch([rows.row(sample)], [sample])
        assert len(filled.tokens_T) % 2 == 0
        assert filled.scored_K.max() < filled.real_tokens
    assert replace(plain).real_tokens == len(plain.tokens_T)


def test_empty_batch_of_a_rank_without_rows(tokenizer: TokenizerFiles, tmp_path: Path) -> None:
    for objective in ("mlm", "clm"):
        batch = build(tokenizer, objective).eval_batch([])
        assert (batch.real_tokens, len(batch.scored_K), len(batch.tokens_T)) == (0, 0, 1)


def test_mntp_predicts_what_mlm_hides_from_one_position_before(rows: RowDataset, tokenizer: TokenizerFiles) -> None:
    samples = [3, 0, 7]
    given = [rows.row(sample) for sample in samples]
    masked, shifted = (build(tokenizer, name).train_batch(given, samples) for name in ("mlm", "mntp"))
    np.testing.assert_array_equal(shifted.tokens_T, masked.tokens_T)
    np.testing.assert_array_equal(shifted.labels_K, masked.labels_K)
    np.testing.assert_array_equal(shifted.scored_K + 1, masked.scored_K)
    # The position before is in the same chunk.
    chunk_of = np.searchsorted(masked.cu_seqlens, [shifted.scored_K, masked.scored_K], side="right")
    np.testing.assert_array_equal(chunk_of[0], chunk_of[1])
    assert build(tokenizer, "mntp").traits == OBJECTIVES["mntp"]
