"""Read the rows of a parquet file in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.preprocess.readers.records import BATCH_BYTES, Batch, InputFile
from megatron_ettin.errors import one_line


def read_parquet(number: int, file: InputFile, keys: Sequence[str]) -> Iterator[Batch]:
    """Yield the rows; a value is a text, an array of token ids, or None."""
    import pyarrow
    import pyarrow.parquet

    row = 1
    read_bytes = 0
    try:
        # Without a buffer size pyarrow reads a row group's whole column at once, which may be gigabytes.
        with pyarrow.parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=BATCH_BYTES) as table:
            columns = table.schema_arrow.names
            missing = [key for key in keys if key not in columns]
            if missing:
                raise ValueError(f'there is no column "{missing[0]}" (its columns: {", ".join(columns)})')
            repeated = [key for key in keys if columns.count(key) > 1]
            if repeated:
                raise ValueError(f'there are {columns.count(repeated[0])} columns "{repeated[0]}"')
            num_rows = table.metadata.num_rows
            size = sum(table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups))
            batch_rows = max(1, min(BATCH_BYTES * num_rows // max(1, size), 1 << 16))
            for table_batch in table.iter_batches(batch_rows, columns=list(keys), use_threads=False):
                records = list(zip(*[_values(table_batch.column(key)) for key in keys], strict=True))
                until = file.num_bytes * (row - 1 + len(records)) // num_rows
                numbers = range(row, row + len(records))
                yield Batch(number, "values", numbers, records, table_batch.nbytes, until - read_bytes)
                row += len(records)
                read_bytes = until
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        yield Batch(number, "values", [], [], 0, 0, damage=(row, one_line(error)))


def _values(column: Any) -> list[Any]:
    import pyarrow

    kind, types = column.type, pyarrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and types.is_integer(kind.value_type):
        return [_integers(item.values) if item.is_valid else None for item in column]
    return list(column.to_pylist())


def _integers(values: Any) -> NDArray[np.integer] | None:
    """Return the integers of a list, None where one of them is null."""
    return None if values.null_count else values.to_numpy(zero_copy_only=False)
