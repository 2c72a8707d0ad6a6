"""The training order on disk: every chunk in the order in which it was trained, as parquet.

    DIR/steps_0000000-0000100/part-00000.parquet    one folder per checkpoint interval: steps 0 to 99
    DIR/steps_.../_order.json                       its totals, written last

A record is one chunk: its step and row (both from 0), its position in the row, its source and document, its number in
the document, and its tokens before masking, including [CLS] and [SEP].
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megatron_ettin.data.batch import assemble
from megatron_ettin.data.batch_plan import StepPlan
from megatron_ettin.data.rows import Row
from megatron_ettin.data.training_rows import TrainingRows

if TYPE_CHECKING:
    import pyarrow as pa

TOTALS_FILE = "_order.json"
"""Readers of parquet folders skip names that start with an underscore."""
ROWS_AT_A_TIME = 1024
"""Rows of a row group, which is kept in memory."""
_ROW_GROUPS_IN_A_FILE = 256


@dataclass(frozen=True)
class Interval:
    """The steps between two checkpoints."""

    first_step: int
    last_step: int
    """Exclusive."""
    first_row: int
    last_row: int
    """Exclusive."""

    @property
    def folder_name(self) -> str:
        """Name of the interval's folder; names sort like steps."""
        return f"steps_{self.first_step:07d}-{self.last_step:07d}"


@dataclass(frozen=True)
class ChunkDelimiters:
    """The special tokens around chunks."""

    cls_id: int
    sep_id: int
    close_every_chunk: bool


def schema() -> pa.Schema:
    """Return the schema of the files."""
    import pyarrow as pa

    numbers = [("step", pa.int64()), ("row", pa.int64()), ("position", pa.int32())]
    places = [("source", pa.dictionary(pa.int32(), pa.string())), ("document", pa.int64()), ("piece", pa.int32())]
    return pa.schema([*numbers, *places, ("input_ids", pa.list_(pa.int32()))])


def written_intervals(folder: Path) -> dict[int, tuple[Interval, int]]:
    """Return the intervals in ``folder`` with their tokens, by first step; the shortest of those that share one."""
    intervals: dict[int, tuple[Interval, int]] = {}
    for path in sorted(folder.glob(f"steps_*/{TOTALS_FILE}"), reverse=True):
        totals = json.loads(path.read_text(encoding="utf-8"))
        interval = Interval(**{field.name: totals[field.name] for field in fields(Interval)})
        intervals[interval.first_step] = (interval, totals["tokens"])
    return intervals


def write_interval(
    interval: Interval, plan: StepPlan, rows: TrainingRows, delimiters: ChunkDelimiters, folder: Path
) -> Path:
    """Write the chunks of an interval; its folder is renamed to its final name when it is complete.

    Args:
        interval: the steps to write.
        plan: the rows of each step.
        rows: their contents.
        delimiters: special tokens around chunks.
        folder: parent folder of all intervals.
    """
    import pyarrow.parquet as pq

    target = folder / interval.folder_name
    part = folder / f".{interval.folder_name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    chunks = tokens = 0
    writer: Any = None
    for number, table in enumerate(_tables(interval, plan, rows, delimiters)):
        if number % _ROW_GROUPS_IN_A_FILE == 0:
            if writer is not None:
                writer.close()
            name = f"part-{number // _ROW_GROUPS_IN_A_FILE:05d}.parquet"
            writer = pq.ParquetWriter(part / name, schema(), compression="zstd")
        writer.write_table(table)
        chunks += table.num_rows
        tokens += len(table.column("input_ids").combine_chunks().values)
    if writer is not None:
        writer.close()
    totals = {**asdict(interval), "pieces": chunks, "tokens": tokens}
    (part / TOTALS_FILE).write_text(json.dumps(totals, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


def _tables(interval: Interval, plan: StepPlan, rows: TrainingRows, delimiters: ChunkDelimiters) -> Iterator[pa.Table]:
    for step in range(interval.first_step, interval.last_step):
        of_step = plan.of(step)
        for start in range(of_step.start, of_step.stop, ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, of_step.stop)
            yield _table(step, start, rows.rows(start, stop), rows.names, delimiters)


def _table(step: int, first_row: int, rows: list[Row], names: dict[int, str], delimiters: ChunkDelimiters) -> pa.Table:
    import pyarrow as pa

    chunks = [chunk for row in rows for chunk in row]
    packed = assemble(chunks, **asdict(delimiters))
    counts = np.array([len(row) for row in rows])
    starts = packed.cu_seqlens[:-1]
    row_starts = np.repeat(starts[np.cumsum(counts) - counts], counts)
    numbers = np.arange(first_row, first_row + len(rows))
    sources = pa.array([names[chunk.source] for chunk in chunks], pa.string()).cast(schema().field("source").type)
    columns = {
        "step": pa.array(np.full(len(chunks), step)),
        "row": pa.array(np.repeat(numbers, counts)),
        "position": pa.array((starts - row_starts).astype(np.int32)),
        "source": sources,
        "document": pa.array([chunk.document for chunk in chunks], pa.int64()),
        "piece": pa.array([chunk.index for chunk in chunks], pa.int32()),
        "input_ids": pa.ListArray.from_arrays(pa.array(packed.cu_seqlens), pa.array(packed.tokens_T.astype(np.int32))),
    }
    return pa.table(columns, schema=schema())
