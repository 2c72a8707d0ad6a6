"""The rows of a blend in training order."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.sources import Sources
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.fingerprint import changed_causes, file_fingerprint, order_fingerprint
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.data.training_rows import TrainingRows
from tests.helpers.corpora import write_corpus, write_word_tokenizer
from tests.helpers.runs import tiny_run

SEP = 2


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Corpora in which every token identifies its source: 10 is books, 20 web, 30 code."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    written = {}
    for number, (name, documents, longest) in enumerate((("books", 30, 60), ("web", 200, 20), ("code", 1, 5)), 1):
        lengths = rng.integers(1, longest, documents)
        written[name] = write_corpus(folder / name, [np.full(length, 10 * number) for length in lengths])
    return written


def build(data_path: str, packing: str = "best-fit", seed: int = 3) -> TrainingRows:
    requests = Sources.parse(data_path).requests
    corpora = [IndexedTokens(request.path) for request in requests]
    rows = [
        RowDataset(corpus, range(corpus.num_documents), 32, sep_id=SEP, seed=seed, packing=packing, source=number)
        for number, corpus in enumerate(corpora)
    ]
    return TrainingRows(requests, rows)


def sources_of(rows: TrainingRows, start: int, stop: int) -> list[int]:
    """Return the source of each row, known from its tokens; a row has one source."""
    numbers = []
    for row in rows.rows(start, stop):
        sources = {int(token) // 10 - 1 for chunk in row for token in chunk.tokens}
        assert sources == {chunk.source for chunk in row}
        assert len(sources) == 1
        numbers.append(sources.pop())
    return numbers


def test_a_source_is_read_epoch_by_epoch(prefixes: dict[str, str]) -> None:
    rows = build(f"0.5 {prefixes['books']} 0.3 {prefixes['web']} 0.2 {prefixes['code']}")
    assert np.abs(np.bincount(sources_of(rows, 0, 500)) - np.array([250, 150, 100])).max() < 1
    books = rows.sources[0]
    seen = [tuple((p.document, p.index) for p in row) for row in rows.rows(0, 500) if row[0].source == 0]
    epochs = [sorted(seen[at : at + books.num_rows]) for at in range(0, 250 - books.num_rows, books.num_rows)]
    assert len(epochs) > 2
    assert all(epoch == epochs[0] for epoch in epochs), "every row once per epoch"
    assert seen[: books.num_rows] != seen[books.num_rows : 2 * books.num_rows], "in another order"


def test_any_range_equals_the_full_order(prefixes: dict[str, str]) -> None:
    data_path = f"0.5 {prefixes['books']} 0.3 {prefixes['web']} 0.2 {prefixes['code']}"
    whole = [[(p.source, p.document, p.index) for p in row] for row in build(data_path).rows(0, 300)]
    other = build(data_path)
    for start, stop in ((250, 300), (0, 10), (77, 201)):
        assert [[(p.source, p.document, p.index) for p in row] for row in other.rows(start, stop)] == whole[start:stop]


def test_targets_in_tokens_are_met_in_tokens(prefixes: dict[str, str]) -> None:
    rows = build(f"3K {prefixes['books']} 1K {prefixes['web']}", packing="none")
    realised = rows.realised(2000, close_every_chunk=True)
    tokens = [each.tokens for each in realised]
    assert tokens[0] / tokens[1] == pytest.approx(3, rel=0.02)
    counted = [0, 0]
    for row in rows.rows(0, 2000):
        counted[row[0].source] += sum(len(chunk.tokens) + 2 for chunk in row)
    assert tokens == counted
    assert [each.rows for each in realised] == np.bincount(sources_of(rows, 0, 2000)).tolist()
    np.testing.assert_array_equal(
        rows.tokens(5, 40, close_every_chunk=False),
        [sum(len(p.tokens) + 1 + p.ends_document for p in row) for row in rows.rows(5, 40)],
    )


def test_sources_without_weights_are_read_once(prefixes: dict[str, str]) -> None:
    rows = build(f"{prefixes['books']} {prefixes['web']}")
    first_chunks = [(row[0].source, row[0].document, row[0].index) for row in rows.rows(0, rows.num_rows)]
    assert len(set(first_chunks)) == rows.num_rows
    assert rows.blend.shares[0] == Fraction(rows.sources[0].num_rows, rows.num_rows)


def test_a_share_of_a_billionth_and_a_source_of_a_single_row(prefixes: dict[str, str]) -> None:
    rows = build(f"1 {prefixes['books']} 1e-9 {prefixes['code']}")
    assert sources_of(rows, 0, 200) == [0] * 200
    turned = build(f"1e-9 {prefixes['books']} 1 {prefixes['code']}")
    assert {chunk.source for row in turned.rows(0, 50) for chunk in row} == {1}


class TestFingerprint:
    def fingerprint(self, folder: Path, data_path: str, **settings: Any) -> dict[str, Any]:
        words = settings.pop("words", ["a"])
        tokenizer = TokenizerFiles.load(write_word_tokenizer(folder / "-".join(words), words))
        return order_fingerprint(tiny_run("mlm", data_path=data_path, **settings), tokenizer)

    @pytest.mark.parametrize(
        ("settings", "cause"),
        [
            ({"seed": 5}, "seed"),
            ({"seq_length": 128}, "seq_length"),
            ({"packing": "none"}, "packing"),
            ({"chunk_min_size": 9}, "chunk_min_size"),
            ({"split": "1,1"}, "split"),
            ({"words": ["b"]}, "tokenizer"),
        ],
    )
    def test_each_cause_is_named(
        self, tmp_path: Path, prefixes: dict[str, str], settings: dict[str, Any], cause: str
    ) -> None:
        before, now = (self.fingerprint(tmp_path, prefixes["books"], **more) for more in ({}, settings))
        assert list(changed_causes(before, now)) == [cause]

    def test_files_and_blend(self, tmp_path: Path, prefixes: dict[str, str]) -> None:
        one, two = (self.fingerprint(tmp_path, f"{w} {prefixes['books']} 1 {prefixes['web']}") for w in (1, 2))
        assert list(changed_causes(one, two)) == ["blend"]
        other = self.fingerprint(tmp_path, f"1 {prefixes['books']} 1 {prefixes['code']}")
        assert list(changed_causes(one, other)) == ["data files"]

    def test_paths_and_launch_settings_do_not_matter(self, tmp_path: Path, prefixes: dict[str, str]) -> None:
        copy = tmp_path / "copied"
        for suffix in (".bin", ".idx"):
            Path(f"{copy}{suffix}").write_bytes(Path(f"{prefixes['books']}{suffix}").read_bytes())
        before = self.fingerprint(tmp_path, prefixes["books"])
        assert self.fingerprint(tmp_path, str(copy), micro_batch_size=4, masking="span") == before

    def test_a_large_file_is_fingerprinted_by_size_and_blocks(self, tmp_path: Path) -> None:
        path = tmp_path / "large"
        path.write_bytes(np.random.default_rng(0).bytes(8 << 20))
        before = file_fingerprint(str(path))
        assert before == file_fingerprint(str(path))
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\0")
        changed = file_fingerprint(str(path))
        with path.open("ab") as file:
            file.write(b"\0")
        assert len({before, changed, file_fingerprint(str(path))}) == 3
