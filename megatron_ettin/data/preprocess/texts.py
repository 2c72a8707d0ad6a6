"""All texts of the inputs one after the other, in this process: for learning a tokenizer or where sentences end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.data.preprocess.batches import Batch, read_span, record_name
from megatron_ettin.data.preprocess.documents import BadRecord, read_documents
from megatron_ettin.data.preprocess.inputs import InputFile, find_inputs
from megatron_ettin.data.preprocess.plan import Span


def read_texts(
    given: Sequence[str],
    flag: str,
    keys: Sequence[str] = ("text",),
    *,
    text_documents: str = "file",
    skip_bad: bool = False,
) -> Iterator[tuple[int, str]]:
    """Yield number in its file and text of each document.

    Raises:
        ConfigError: something is not there, or a record is no document and ``skip_bad`` is not set.
    """
    inputs = find_inputs(given, flag)
    for number, file in enumerate(inputs):
        for batch in read_span(Span(number, 0, None), file, keys, text_documents):
            yield from _texts(batch, file, flag, keys, skip_bad)


def _texts(batch: Batch, file: InputFile, flag: str, keys: Sequence[str], skip_bad: bool) -> Iterator[tuple[int, str]]:
    for number, found in zip(batch.numbers, read_documents(batch, keys), strict=True):
        if isinstance(found, BadRecord):
            if not skip_bad:
                raise ConfigError(told(flag, file, number, str(found)))
            continue
        for value in found:
            if isinstance(value, str):
                yield number, value
            elif isinstance(value, list):
                yield number, " ".join(value)
    if batch.broken and not skip_bad:
        raise ConfigError(told(flag, file, *batch.broken, onwards=True))


def told(flag: str, file: InputFile, number: int, reason: str, *, onwards: bool = False) -> str:
    """Return the message about a record, or about all from it on."""
    place = f"from {record_name(file.kind)} {number} on" if onwards else f"{record_name(file.kind)} {number}"
    return f"{flag} {file.path} {place}: {reason}"
