"""From documents to rows: nothing lost, nothing doubled, nothing too long, the same order everywhere."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.data.evaluation import evaluation_rows
from megatron_ettin.data.indexed import IndexedTokens
from megatron_ettin.data.order import epoch_order, micro_batch_samples
from megatron_ettin.data.packing import pack_best_fit
from megatron_ettin.data.pieces import cut_documents
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.data.splits import split_documents
from tests.helpers.corpora import babble, write_corpus

SEP = 2

lengths_of_documents = st.lists(st.integers(0, 40), min_size=1, max_size=30)


def numbered(lengths: list[int], *, closed: bool = False) -> list[list[int]]:
    """Documents whose tokens are all different, so that each can be found again."""
    tokens = iter(range(10, 10 + sum(lengths)))
    return [[next(tokens) for _ in range(n)] + ([SEP] if closed and n else []) for n in lengths]


def open_corpus(documents: list[list[int]]) -> IndexedTokens:
    with TemporaryDirectory() as folder:
        corpus = IndexedTokens(write_corpus(Path(folder) / "c", documents))
        corpus.tokens = np.array(corpus.tokens)  # the file goes with the folder
        return corpus


@given(lengths_of_documents, st.integers(3, 12), st.booleans())
def test_cutting_keeps_every_token_once(lengths: list[int], seq_length: int, closed: bool) -> None:
    corpus = open_corpus(numbered(lengths, closed=closed))
    table = cut_documents(corpus, range(len(lengths)), seq_length, SEP)
    pieces = [table.piece(i, corpus) for i in range(len(table))]
    for number, content in enumerate(numbered(lengths)):
        own = [piece for piece in pieces if piece.document == number]
        assert [piece.index for piece in own] == list(range(len(own)))
        assert [token for piece in own for token in piece.tokens] == content
        assert [piece.ends_document for piece in own] == [False] * (len(own) - 1) + [True] * bool(own)
    assert all(0 < len(piece.tokens) <= seq_length - 2 for piece in pieces)


@given(st.lists(st.integers(1, 50), max_size=200))
def test_packing_places_every_piece_once_and_fits(sizes: list[int]) -> None:
    table = pack_best_fit(np.array(sizes, dtype=np.int64), 50)
    assert sorted(table.pieces.tolist()) == list(range(len(sizes)))
    for row in range(len(table)):
        assert 0 < sum(sizes[piece] for piece in table.row(row)) <= 50
    # Two rows half empty or emptier would have shared one.
    assert sum(sum(sizes[p] for p in table.row(r)) <= 25 for r in range(len(table))) <= 1


def test_packing_fills_rows() -> None:
    sizes = np.minimum(1024, np.random.default_rng(0).lognormal(5.5, 1.2, 20_000).astype(np.int64) + 3)
    table = pack_best_fit(sizes, 1024)
    assert sizes.sum() / (len(table) * 1024) > 0.995


def test_an_epoch_holds_every_piece_once_and_the_next_is_ordered_anew() -> None:
    documents = [document.tolist() for document in babble(60, 500)]
    dataset = RowDataset(open_corpus(documents), range(10, 60), 32, sep_id=SEP, seed=5)
    epochs = []
    for epoch in range(2):
        samples = range(epoch * dataset.num_rows, (epoch + 1) * dataset.num_rows)
        epochs.append([(p.document, p.index) for sample in samples for p in dataset.row(sample)])
    expected = [(d, i) for d in range(10, 60) for i in range(-(-len(documents[d]) // 30))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == expected
    assert epochs[0] != epochs[1]
    again = RowDataset(open_corpus(documents), range(10, 60), 32, sep_id=SEP, seed=5)
    # Out of order, as after a resume in the second epoch.
    for sample in (dataset.num_rows + 3, 2, dataset.num_rows):
        ours, theirs = again.row(sample), dataset.row(sample)
        assert [(p.document, p.index) for p in ours] == [(p.document, p.index) for p in theirs]


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


@given(st.integers(0, 5), st.sampled_from([(8, 1), (8, 2), (24, 3), (12, 4)]), st.sampled_from([1, 2, 4]))
def test_ranks_share_a_step_without_overlap(step: int, sizes: tuple[int, int], ranks: int) -> None:
    global_batch, micro_batch = sizes[0] * ranks, sizes[1]
    global_batch -= global_batch % (micro_batch * ranks)
    per_rank = [
        micro_batch_samples(
            step,
            global_batch_size=global_batch,
            micro_batch_size=micro_batch,
            data_parallel_rank=rank,
            data_parallel_size=ranks,
        )
        for rank in range(ranks)
    ]
    assert all(len(batch) == micro_batch for batches in per_rank for batch in batches)
    in_order = [sample for batches in zip(*per_rank, strict=True) for batch in batches for sample in batch]
    assert in_order == list(range(step * global_batch, (step + 1) * global_batch))


def test_evaluation_holds_every_piece_once() -> None:
    documents = numbered([3, 0, 70, 31, 1])
    rows = evaluation_rows(open_corpus(documents), range(1, 5), 32, sep_id=SEP)
    tokens = sorted(token for row in rows for piece in row for token in piece.tokens)
    assert tokens == sorted(token for document in documents[1:] for token in document)
    assert len(list(rows)) == len(rows)


def test_split_as_megatron() -> None:
    assert split_documents(1000, "969,30,1") == (range(969), range(969, 999), range(999, 1000))
    assert split_documents(10, "0,100,0") == (range(0), range(10), range(10, 10))
    assert split_documents(7, "1") == (range(7), range(7, 7), range(7, 7))


@pytest.mark.parametrize("split", ["a,b", "0,0,0", "1,2,3,4", "-1,2", ""])
def test_senseless_split_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match=r"--split"):
        split_documents(10, split)
