"""The training order on disk: every chunk of a document, in the order in which it was trained, as parquet.

    DIR/steps_0000000-0000100/part-00000.parquet    one folder a checkpoint interval: steps 0 to 99
    DIR/steps_.../_order.json                       its figures, written last

A record is one chunk: the step (0-based), the row (its number in the training order), where the chunk begins in its
row, source and document, the chunk's number in its document, and its tokens as they were before any masking, [CLS] and
[SEP] counted.
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

FIGURES_FILE = "_order.json"
"""Readers of parquet folders pass over names with such a begin."""
ROWS_AT_A_TIME = 1024
"""Rows of a row group: what is held in memory."""
_ROW_GROUPS_IN_A_FILE = 256


@dataclass(frozen=True)
class Interval:
    """The steps between two checkpoints."""

    first_step: int
    last_step: int
    """Not in it."""
    first_row: int
    last_row: int
    """Not in it."""

    @property
    def folder_name(self) -> str:
        """Return the folder's name; names sort as steps do."""
        return f"steps_{self.first_step:07d}-{self.last_step:07d}"


@dataclass(frozen=True)
class SpecialTokens:
    """How chunks were closed."""

    cls_id: int
    sep_id: int
    close_every_chunk: bool


def schema() -> pa.Schema:
    """Return the columns of a file."""
    import pyarrow as pa

    numbers = [("step", pa.int64()), ("row", pa.int64()), ("position", pa.int32())]
    places = [("source", pa.dictionary(pa.int32(), pa.string())), ("document", pa.int64()), ("piece", pa.int32())]
    return pa.schema([*numbers, *places, ("input_ids", pa.list_(pa.int32()))])


def written_intervals(folder: Path) -> dict[int, tuple[Interval, int]]:
    """Return the intervals that are there with their tokens, by their first step; where two share it, the shortest."""
    found: dict[int, tuple[Interval, int]] = {}
    for path in sorted(folder.glob(f"steps_*/{FIGURES_FILE}"), reverse=True):
        told = json.loads(path.read_text(encoding="utf-8"))
        interval = Interval(**{field.name: told[field.name] for field in fields(Interval)})
        found[interval.first_step] = (interval, told["tokens"])
    return found


def write_interval(
    interval: Interval, plan: StepPlan, rows: TrainingRows, special: SpecialTokens, folder: Path
) -> Path:
    """Write the chunks of an interval; the folder has its name when it is whole.

    Args:
        interval: which steps.
        plan: tells the rows of each.
        rows: gives them.
        special: what was set around chunks.
        folder: of all intervals.
    """
    import pyarrow.parquet as pq

    target = folder / interval.folder_name
    part = folder / f".{interval.folder_name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    chunks = tokens = 0
    writer: Any = None
    for number, table in enumerate(_tables(interval, plan, rows, special)):
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
    figures = {**asdict(interval), "pieces": chunks, "tokens": tokens}
    (part / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


def _tables(interval: Interval, plan: StepPlan, rows: TrainingRows, special: SpecialTokens) -> Iterator[pa.Table]:
    for step in range(interval.first_step, interval.last_step):
        whole = plan.of(step)
        for begin in range(whole.start, whole.stop, ROWS_AT_A_TIME):
            end = min(begin + ROWS_AT_A_TIME, whole.stop)
            yield _table(step, begin, rows.rows(begin, end), rows.names, special)


def _table(step: int, first_row: int, rows: list[Row], names: dict[int, str], special: SpecialTokens) -> pa.Table:
    import pyarrow as pa

    chunks = [chunk for row in rows for chunk in row]
    packed = assemble(chunks, cls_id=special.cls_id, sep_id=special.sep_id, close_every_chunk=special.close_every_chunk)
    counts = np.array([len(row) for row in rows])
    begins = packed.cu_seqlens[:-1]
    first_of_row = np.repeat(begins[np.cumsum(counts) - counts], counts)
    numbers = np.arange(first_row, first_row + len(rows))
    sources = pa.array([names[chunk.source] for chunk in chunks], pa.string()).cast(schema().field("source").type)
    columns = {
        "step": pa.array(np.full(len(chunks), step)),
        "row": pa.array(np.repeat(numbers, counts)),
        "position": pa.array((begins - first_of_row).astype(np.int32)),
        "source": sources,
        "document": pa.array([chunk.document for chunk in chunks], pa.int64()),
        "piece": pa.array([chunk.index for chunk in chunks], pa.int32()),
        "input_ids": pa.ListArray.from_arrays(pa.array(packed.cu_seqlens), pa.array(packed.tokens_T.astype(np.int32))),
    }
    return pa.table(columns, schema=schema())
