"""Splits of a corpus by document order, in megatron-core's arithmetic, and by hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.config.value_types import Split
from megatron_ettin.data.corpus import indexed
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.data.splits import SPLIT_NAMES, split_by_hash, split_corpus, split_documents
from tests.helpers.corpora import write_corpus
from tests.helpers.distributed import run_ranks

SEP = 2


def split_by_core(num_documents: int, split: str) -> list[tuple[int, int] | None]:
    from megatron.core.datasets import blended_megatron_dataset_config as core

    matrix = core.convert_split_vector_to_split_matrix(core.parse_and_normalize_split(split))
    # As megatron-core's BlendedMegatronDatasetBuilder bounds a split.
    return [part and (round(part[0] * float(num_documents)), round(part[1] * float(num_documents))) for part in matrix]


def splits_by_core(cases: list[tuple[int, str]]) -> list[list[tuple[int, int] | None]]:
    return [split_by_core(*case) for case in cases]


def test_split_equals_megatron_cores() -> None:
    rng = np.random.default_rng(0)
    cases = [(int(n), split) for n in 10 ** rng.uniform(0, 9, 300) for split in ("969,30,1", "98,2,0", "0.7,0.2,0.1")]
    cases += [(int(n), f"{a},{b},{c}") for n, a, b, c in rng.integers(1, 1000, (300, 4))]
    for case, expected in zip(cases, run_ranks(1, splits_by_core, cases)[0], strict=True):
        ours = [(part.start, part.stop) if part else None for part in split_documents(case[0], Split.parse(case[1]))]
        # Where all of a part rounds away, core keeps the two equal bounds.
        assert ours == [part if part and part[0] < part[1] else None for part in expected], case


def test_split_as_megatron() -> None:
    assert split_documents(1000, Split.parse("969,30,1")) == (range(969), range(969, 999), range(999, 1000))
    assert split_documents(10, Split.parse("0,100,0")) == (range(0), range(10), range(10, 10))
    assert split_documents(7, Split.parse("1")) == (range(7), range(7, 7), range(7, 7))


class TestSplitByHash:
    def test_shares_are_as_requested(self) -> None:
        parts = split_by_hash(100_000, Split.parse("90,8,2"), "books")
        assert sorted(np.concatenate(parts).tolist()) == list(range(100_000))
        for part, share in zip(parts, (0.9, 0.08, 0.02), strict=True):
            assert abs(len(part) - 100_000 * share) < 4 * (100_000 * share * (1 - share)) ** 0.5

    def test_a_document_keeps_its_split_when_others_are_added(self) -> None:
        before, after = (
            split_by_hash(1000, Split.parse("90,8,2"), "books"),
            split_by_hash(5000, Split.parse("90,8,2"), "books"),
        )
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, np.asarray(other)[np.asarray(other) < 1000])

    def test_the_split_depends_on_the_corpus_name_and_not_on_its_folder(self) -> None:
        here, there = (split_corpus(1000, Split.parse("90,10"), "hash", f"{folder}/books") for folder in ("/a", "/b/c"))
        other = split_corpus(1000, Split.parse("90,10"), "hash", "/a/web")
        for name in SPLIT_NAMES:
            np.testing.assert_array_equal(here[name], there[name])
        assert not np.array_equal(here["validation"][:20], other["validation"][:20])

    def test_rows_contain_the_documents_of_the_split(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        prefix = write_corpus(tmp_path / "c", [[number + 5] * 3 for number in range(60)])
        documents = split_corpus(60, Split.parse("50,50"), "hash", prefix)["training"]
        for limit in (indexed.LARGE_DOCUMENTS, 0):
            monkeypatch.setattr(indexed, "LARGE_DOCUMENTS", limit)
            rows = RowDataset(IndexedTokens(prefix), documents, 16, sep_id=SEP)
            chunks = [chunk for row in range(rows.num_rows) for chunk in rows.stored_row(row)]
            assert sorted(chunk.document for chunk in chunks) == np.asarray(documents).tolist()
            assert all(chunk.tokens.tolist() == [chunk.document + 5] * 3 for chunk in chunks)
