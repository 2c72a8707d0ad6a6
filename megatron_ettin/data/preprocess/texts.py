"""Read texts of the inputs in this process: all of them to train on, or a sample to compare encoders on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ettin.data.preprocess.documents import BadRecord, Value, read_documents, read_span, record_message
from megatron_ettin.data.preprocess.inputs import find_inputs
from megatron_ettin.data.preprocess.readers.records import InputFile, Span
from megatron_ettin.data.preprocess.settings import PreprocessSettings
from megatron_ettin.errors import ConfigError

SAMPLED_CHARACTERS = 200_000
SAMPLED_FILES = 8
_LONGEST = 10_000
"""Characters sampled from one document."""


def read_texts(
    given: Sequence[str],
    flag: str,
    keys: Sequence[str] = ("text",),
    *,
    text_documents: str = "file",
    skip_bad: bool = False,
) -> Iterator[tuple[int, str]]:
    """Yield each text of the inputs, with the number of its record in its file.

    Args:
        given: files, globs or folders.
        flag: the flag that names them, for messages.
        keys: JSON keys or columns of the texts.
        text_documents: what one document of a plain text file is.
        skip_bad: skip records that are not documents.

    Raises:
        ConfigError: an input is missing, or a record is not a document and ``skip_bad`` is not set.
    """
    for index, file in enumerate(find_inputs(given, flag)):
        for batch in read_span(Span(index, 0, None), file, keys, text_documents):
            for number, document in zip(batch.numbers, read_documents(batch, keys), strict=True):
                if not isinstance(document, BadRecord):
                    yield from ((number, " ".join(sentences)) for sentences in _texts_of(document))
                elif not skip_bad:
                    raise ConfigError(record_message(flag, file, number, str(document)))
            if batch.damage and not skip_bad:
                raise ConfigError(record_message(flag, file, *batch.damage, onwards=True))


def sample_texts(inputs: Sequence[InputFile], settings: PreprocessSettings) -> list[str]:
    """Return texts from evenly spaced places of the input; pipes are left alone and bad records skipped."""
    step = max(1, len(inputs) // SAMPLED_FILES)
    spans = [span for index in range(0, len(inputs), step) for span in _sampled_spans(index, inputs[index])]
    sample = []
    for span in spans:
        left = SAMPLED_CHARACTERS // len(spans)
        for text in _span_texts(span, inputs[span.file], settings):
            sample.append(text[:_LONGEST])
            left -= len(sample[-1])
            if left <= 0:
                break
    return sample


def _sampled_spans(index: int, file: InputFile) -> Iterator[Span]:
    """Yield the start of a file and, where seeking is cheap, its middle and its end."""
    if file.is_pipe:
        return
    if not file.can_be_cut or file.num_bytes < SAMPLED_CHARACTERS:
        yield Span(index, 0, None)
        return
    for start in (0, file.num_bytes // 2, file.num_bytes - SAMPLED_CHARACTERS):
        yield Span(index, start, min(start + SAMPLED_CHARACTERS, file.num_bytes))


def _span_texts(span: Span, file: InputFile, settings: PreprocessSettings) -> Iterator[str]:
    for batch in read_span(span, file, settings.json_keys, settings.text_documents):
        for document in read_documents(batch, settings.json_keys):
            if not isinstance(document, BadRecord):
                for sentences in _texts_of(document):
                    yield from sentences


def _texts_of(document: Sequence[Value]) -> Iterator[list[str]]:
    """Yield the sentences of each text of a document; token ids are left out."""
    for value in document:
        if isinstance(value, str | list):
            yield [value] if isinstance(value, str) else value
