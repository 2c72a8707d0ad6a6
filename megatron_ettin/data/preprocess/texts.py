"""All texts of the inputs one after the other, in this process: for learning a tokenizer or where sentences end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ettin.data.preprocess.documents import BadRecord, read_documents
from megatron_ettin.data.preprocess.inputs import find_inputs
from megatron_ettin.data.preprocess.readers.dispatch import read_span
from megatron_ettin.data.preprocess.readers.records import Batch, InputFile, Span, record_name
from megatron_ettin.data.preprocess.settings import PreprocessSettings
from megatron_ettin.errors import ConfigError


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


SAMPLED_CHARACTERS = 200_000
SAMPLED_FILES = 8
_LONGEST = 10_000
"""Characters taken of one document."""


def sample_texts(inputs: Sequence[InputFile], settings: PreprocessSettings) -> list[str]:
    """Return texts from evenly spread places of the input; a pipe is not touched, and bad records are passed over."""
    step = max(1, len(inputs) // SAMPLED_FILES)
    spans = [span for number in range(0, len(inputs), step) for span in _places(number, inputs[number])]
    texts = []
    for span in spans:
        left = SAMPLED_CHARACTERS // len(spans)
        for text in _sampled_texts(span, inputs[span.file], settings):
            texts.append(text[:_LONGEST])
            left -= len(texts[-1])
            if left <= 0:
                break
    return texts


def _places(number: int, file: InputFile) -> Iterator[Span]:
    """Yield where to look in a file: at its begin, and where that is cheap in its middle and near its end."""
    if file.is_pipe:
        return
    if not file.can_be_cut or file.num_bytes < SAMPLED_CHARACTERS:
        yield Span(number, 0, None)
        return
    for start in (0, file.num_bytes // 2, file.num_bytes - SAMPLED_CHARACTERS):
        yield Span(number, start, min(start + SAMPLED_CHARACTERS, file.num_bytes))


def _sampled_texts(span: Span, file: InputFile, settings: PreprocessSettings) -> Iterator[str]:
    for batch in read_span(span, file, settings.json_keys, settings.text_documents):
        yield from _texts_of(batch, settings)


def _texts_of(batch: Batch, settings: PreprocessSettings) -> Iterator[str]:
    for found in read_documents(batch, settings.json_keys):
        if not isinstance(found, BadRecord):
            for value in found:
                yield from [value] if isinstance(value, str) else value if isinstance(value, list) else []
