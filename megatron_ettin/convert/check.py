"""Check an export: the model that transformers loads must compute what the reference computes from the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import OBJECTIVES, is_encoder, mask_kind_of
from megatron_ettin.convert.check_tokenizer import compare_tokenizers
from megatron_ettin.convert.reference import TensorSource, reference_logits
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles

RELATIVE_TOLERANCE = 2e-5
"""Largest allowed difference, relative to the largest value (at least 1), in fp32."""

_LONGEST_DOCUMENT = 1024
_SEED = 20240607

Places = dict[tuple[str, int], Tensor]
"""Hidden states [S, H] by (place, document)."""


@dataclass(frozen=True)
class CheckResult:
    """Difference between the two computations."""

    difference: float
    """Largest absolute difference of the outputs: logits, or hidden states where there is no head."""
    allowed: float
    first_diverging: str | None
    """First place, from input to output, where the difference exceeds its tolerance."""
    compared: str = "logits"
    """Name of the outputs."""
    wrong_encoding: str = ""
    """What the released tokenizer encodes differently from training, if anything."""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance, which NaN is not, and texts are encoded as in training."""
        return self.difference <= self.allowed and not self.wrong_encoding


def check_export(
    folder: Path,
    source: TensorSource,
    model: ModelConfig,
    objective: str,
    *,
    tokenizer: TokenizerFiles,
    base_only: bool = False,
) -> CheckResult:
    """Load ``folder`` with transformers and compare it with the reference on one fixed batch of documents.

    The released tokenizer is compared with what training assembles.

    Args:
        folder: an exported model.
        source: the checkpoint's tensors, rounded to the exported type.
        model: shape.
        objective: the objective whose class was exported.
        tokenizer: the checkpoint's, with the special tokens of training.
        base_only: the folder has neither head nor output layer; compare up to the final norm.
    """
    assert tokenizer.pad_id is not None
    documents = check_documents(model)
    # transformers first: its model is freed before the reference starts.
    load = _load_base if base_only else _load_with_head
    exported = _run_exported(load(folder, objective), documents, tokenizer.pad_id)
    expected: Places = {}

    def observe(place: str, document: int, hidden_SH: Tensor) -> None:
        expected[place, document] = hidden_SH

    logits = reference_logits(source, model, mask_kind_of(objective), documents, observe=observe)
    expected |= {("logits", document): logits_SV for document, logits_SV in enumerate(logits)}
    if base_only:
        expected = {key: hidden for key, hidden in expected.items() if key[0] not in ("head", "logits")}
    return replace(_compare(expected, exported), wrong_encoding=compare_tokenizers(folder, tokenizer, objective))


def check_documents(model: ModelConfig) -> list[Tensor]:
    """Return token ids of documents that end inside a window, at its edge and far past it, equal in every call.

    They may be longer than the rows of training: RoPE has no last position, and the window is checked only where a
    document exceeds it.
    """
    half = model.sliding_window // 2
    lengths = [min(length, _LONGEST_DOCUMENT) for length in (4 * half + 3, half + 1, 2 * half, 1)]
    generator = torch.Generator().manual_seed(_SEED)
    return [torch.randint(model.vocab_size, (length,), generator=generator) for length in lengths]


@dataclass(frozen=True)
class _Loaded:
    """A model loaded by transformers."""

    model: nn.Module
    base: Any
    """The part up to the final norm."""
    head: nn.Module | None


def _load_with_head(folder: Path, objective: str) -> _Loaded:
    import transformers

    model = _from_folder(getattr(transformers, OBJECTIVES[objective].hub.auto_class), folder)
    head = model.head if is_encoder(objective) else model.lm_head
    return _Loaded(model, model.model, head)


def _load_base(folder: Path, objective: str) -> _Loaded:
    from transformers import AutoModel

    model = _from_folder(AutoModel, folder)
    return _Loaded(model, model, None)


def _from_folder(auto: Any, folder: Path) -> Any:
    with _no_progress_bar():
        return auto.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def _run_exported(loaded: _Loaded, documents: Sequence[Tensor], pad_id: int) -> Places:
    """Run the exported model on all documents as one padded batch; return the outputs of its modules."""
    lengths = [len(tokens_S) for tokens_S in documents]
    tokens_DS = nn.utils.rnn.pad_sequence(list(documents), batch_first=True, padding_value=pad_id)
    mask_DS = torch.arange(tokens_DS.shape[1]) < torch.tensor(lengths)[:, None]
    recorder = _Recorder(lengths)
    modules = {"embedding": loaded.base.embeddings, "final norm": loaded.base.final_norm}
    modules |= {f"layer {i}": layer for i, layer in enumerate(loaded.base.layers)}
    if loaded.head is not None:
        modules["head"] = loaded.head
    for place, module in modules.items():
        module.register_forward_hook(recorder.hook(place))
    with torch.inference_mode():
        output = loaded.model(input_ids=tokens_DS, attention_mask=mask_DS.long())
    if loaded.head is not None:
        recorder.record("logits", output.logits)
    return recorder.places


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@dataclass
class _Recorder:
    """Records the outputs of modules for each document, without padding."""

    lengths: Sequence[int]
    places: Places = field(default_factory=dict)

    def hook(self, place: str) -> Any:
        def record(module: nn.Module, arguments: Any, output: Any) -> None:
            self.record(place, output[0] if isinstance(output, tuple) else output)

        return record

    def record(self, place: str, padded: Tensor) -> None:
        """Keep the output [D, S, ...] of all D documents at one place."""
        for i, length in enumerate(self.lengths):
            self.places[place, i] = padded[i, :length]


def _compare(expected: Places, exported: Places) -> CheckResult:
    """Compare place by place, in the order of the computation."""
    assert expected.keys() == exported.keys(), expected.keys() ^ exported.keys()
    places = list(dict.fromkeys(place for place, _ in expected))
    differences = {place: _difference(place, expected, exported) for place in places}
    first = next((place for place, (largest, allowed) in differences.items() if not largest <= allowed), None)
    return CheckResult(*differences[places[-1]], first_diverging=first, compared=places[-1])


def _difference(place: str, expected: Places, exported: Places) -> tuple[float, float]:
    """Return the largest difference at one place and the tolerance there."""
    keys = [key for key in expected if key[0] == place]
    difference = max(float((expected[key] - exported[key]).abs().max()) for key in keys)
    largest = max(float(expected[key].abs().max()) for key in keys)
    return difference, RELATIVE_TOLERANCE * max(1.0, largest)
