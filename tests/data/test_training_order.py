"""The exported order: every chunk of every row, in order, with the tokens of its document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_ettin.config.sources import Sources
from megatron_ettin.data import training_order
from megatron_ettin.data.batch_plan import BatchRule, StepPlan
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.data.training_order import TOTALS_FILE, ChunkDelimiters, Interval, write_interval
from megatron_ettin.data.training_rows import TrainingRows
from tests.helpers.corpora import babble, write_corpus

CLS, SEP, LENGTH = 1, 2, 32
INTERVALS = [Interval(0, 4, 0, 28), Interval(4, 9, 28, 63)]


def build(folder: Path, packing: str) -> tuple[TrainingRows, list[list[np.ndarray]]]:
    """Return the rows of two blended corpora with the same name, and their documents."""
    documents = [babble(30, 100, seed=seed) for seed in (1, 2)]
    for name, texts in zip("ab", documents, strict=True):
        (folder / name).mkdir()
        write_corpus(folder / name / "text", [[*text, SEP] for text in texts])
    requests = Sources.parse(f"0.6 {folder}/a/text 0.4 {folder}/b/text").requests
    sources = [
        RowDataset(IndexedTokens(request.path), range(30), LENGTH, sep_id=SEP, packing=packing, source=number)
        for number, request in enumerate(requests)
    ]
    return TrainingRows(requests, sources), documents


def write(rows: TrainingRows, folder: Path, closes: bool) -> list[list[dict[str, Any]]]:
    written = []
    for interval in INTERVALS:
        plan = StepPlan(BatchRule(rows=7, micro_rows=2), rows, step=interval.first_step, sample=interval.first_row)
        place = write_interval(interval, plan, rows, ChunkDelimiters(CLS, SEP, closes), folder)
        written.append(pq.read_table(place).to_pylist())
    return written


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("packing", ["best-fit", "none"])
def test_records_are_the_chunks_of_the_rows(tmp_path: Path, packing: str, closes: bool) -> None:
    rows, documents = build(tmp_path, packing)
    first, second = write(rows, tmp_path / "order", closes)
    assert [sorted({record["step"] for record in part}) for part in (first, second)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    records = [*first, *second]
    assert [record["row"] for record in records] == sorted(record["row"] for record in records)
    assert {record["row"] for record in records} == set(range(63))
    assert all(record["row"] // 7 == record["step"] for record in records)
    assert {record["source"] for record in records} == {"text_0", "text_1"}
    ends: dict[int, int] = {}
    for record in records:
        # The document determines the tokens: its chunks have 30 tokens, except the last one.
        text = documents[int(record["source"][-1])][record["document"]]
        start = record["piece"] * (LENGTH - 2)
        content = text[start : start + LENGTH - 2].tolist()
        is_last = start + LENGTH - 2 >= len(text)
        assert record["input_ids"] == [CLS, *content, *([SEP] if closes or is_last else [])]
        assert record["position"] == ends.get(record["row"], 0), "chunks are contiguous in a row"
        ends[record["row"]] = record["position"] + len(record["input_ids"])
    assert max(ends.values()) <= LENGTH
    assert (packing == "none") == (len(records) == 63)
    totals = [json.loads((tmp_path / "order" / each.folder_name / TOTALS_FILE).read_text()) for each in INTERVALS]
    assert [each["pieces"] for each in totals] == [len(first), len(second)]
    assert sum(each["tokens"] for each in totals) == sum(ends.values())


def test_a_long_interval_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = build(tmp_path, "best-fit")
    whole = write(rows, tmp_path / "whole", closes=True)
    monkeypatch.setattr(training_order, "ROWS_AT_A_TIME", 2)
    monkeypatch.setattr(training_order, "_ROW_GROUPS_IN_A_FILE", 3)
    assert write(rows, tmp_path / "parts", closes=True) == whole
    files = sorted((tmp_path / "parts" / INTERVALS[0].folder_name).glob("*.parquet"))
    assert len(files) == 6, "four steps of four row groups, three per file"
    for file in files:
        groups = pq.ParquetFile(file)
        for number in range(groups.num_row_groups):
            assert len(set(groups.read_row_group(number).column("row").to_pylist())) <= 2
