"""A few real documents of the input, to try encoders on before the work begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ettin.data.preprocess.batches import Batch, read_span
from megatron_ettin.data.preprocess.documents import BadRecord, read_documents
from megatron_ettin.data.preprocess.inputs import InputFile
from megatron_ettin.data.preprocess.plan import Span
from megatron_ettin.data.preprocess.settings import PreprocessSettings

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
        for text in _texts(span, inputs[span.file], settings):
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


def _texts(span: Span, file: InputFile, settings: PreprocessSettings) -> Iterator[str]:
    for batch in read_span(span, file, settings.json_keys, settings.text_documents):
        yield from _texts_of(batch, settings)


def _texts_of(batch: Batch, settings: PreprocessSettings) -> Iterator[str]:
    for found in read_documents(batch, settings.json_keys):
        if not isinstance(found, BadRecord):
            for value in found:
                yield from [value] if isinstance(value, str) else value if isinstance(value, list) else []
