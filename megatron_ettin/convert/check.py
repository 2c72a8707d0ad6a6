"""The self-check of an export: the written folder, loaded by transformers, against the checkpoint's own tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import OBJECTIVES, is_encoder, mask_kind_of
from megatron_ettin.convert.reference import TensorSource, reference_logits

RELATIVE_TOLERANCE = 2e-5
"""Largest difference allowed, as a share of the largest value (at least 1), all in fp32."""

_LONGEST_DOCUMENT = 1024
_SEED = 20240607

Places = dict[tuple[str, int], Tensor]
"""Hidden states [S, H] by (place, document)."""


@dataclass(frozen=True)
class CheckResult:
    """How far the two computations lie apart."""

    difference: float
    """Largest absolute difference of two values at the end: logits, or hidden states where there is no head."""
    allowed: float
    first_diverging: str | None
    """The first place on the way from input to end where the difference is over its tolerance."""
    compared: str = "logits"
    """What the end is."""

    @property
    def passed(self) -> bool:
        """Whether the two agree. A difference that is not a number does not."""
        return self.difference <= self.allowed


def check_export(
    folder: Path,
    source: TensorSource,
    model: ModelConfig,
    objective: str,
    *,
    pad_id: int,
    base_only: bool = False,
) -> CheckResult:
    """Load ``folder`` with transformers and compare it with the reference on one fixed batch of documents.

    Args:
        folder: an exported model.
        source: the checkpoint's tensors, rounded to the type that was exported.
        model: shape.
        objective: which of the two classes it is.
        pad_id: fills the rows of shorter documents.
        base_only: the folder holds no head and no output, and is compared up to the final norm.
    """
    documents = check_documents(model)
    # transformers first: it holds a whole model, of which nothing is kept when the reference begins.
    load = _load_base if base_only else _load_with_head
    found = _released(load(folder, objective), documents, pad_id)
    expected: Places = {}

    def observe(place: str, document: int, hidden_SH: Tensor) -> None:
        expected[place, document] = hidden_SH

    logits = reference_logits(source, model, mask_kind_of(objective), documents, observe=observe)
    expected |= {("logits", document): logits_SV for document, logits_SV in enumerate(logits)}
    if base_only:
        expected = {key: hidden for key, hidden in expected.items() if key[0] not in ("head", "logits")}
    return _compare(expected, found)


def check_documents(model: ModelConfig) -> list[Tensor]:
    """Return token ids of documents that end within a window, at its edge and well past it, the same at every call.

    They may be longer than the rows of training were: RoPE knows no last position, and a window that never ends
    inside a document would not be checked.
    """
    half = model.sliding_window // 2
    lengths = [min(length, _LONGEST_DOCUMENT) for length in (4 * half + 3, half + 1, 2 * half, 1)]
    generator = torch.Generator().manual_seed(_SEED)
    return [torch.randint(model.vocab_size, (length,), generator=generator) for length in lengths]


@dataclass(frozen=True)
class _Loaded:
    """A model of transformers."""

    whole: nn.Module
    base: Any
    """The part up to the final norm."""
    head: nn.Module | None


def _load_with_head(folder: Path, objective: str) -> _Loaded:
    import transformers

    released = _from_folder(getattr(transformers, OBJECTIVES[objective].hub.auto_class), folder)
    head = released.head if is_encoder(objective) else released.lm_head
    return _Loaded(released, released.model, head)


def _load_base(folder: Path, objective: str) -> _Loaded:
    from transformers import AutoModel

    released = _from_folder(AutoModel, folder)
    return _Loaded(released, released, None)


def _from_folder(auto: Any, folder: Path) -> Any:
    with _no_progress_bar():
        return auto.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def _released(released: _Loaded, documents: Sequence[Tensor], pad_id: int) -> Places:
    """Run the released model on all documents as one padded batch; return what its modules give on the way."""
    lengths = [len(tokens_S) for tokens_S in documents]
    tokens_DS = nn.utils.rnn.pad_sequence(list(documents), batch_first=True, padding_value=pad_id)
    mask_DS = torch.arange(tokens_DS.shape[1]) < torch.tensor(lengths)[:, None]
    watch = _Watch(lengths)
    modules = {"embedding": released.base.embeddings, "final norm": released.base.final_norm}
    modules |= {f"layer {i}": layer for i, layer in enumerate(released.base.layers)}
    if released.head is not None:
        modules["head"] = released.head
    for place, module in modules.items():
        module.register_forward_hook(watch.hook(place))
    with torch.inference_mode():
        output = released.whole(input_ids=tokens_DS, attention_mask=mask_DS.long())
    if released.head is not None:
        watch.see("logits", output.logits)
    return watch.seen


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
class _Watch:
    """Collects what modules give for each document, padding cut off."""

    lengths: Sequence[int]
    seen: Places = field(default_factory=dict)

    def hook(self, place: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            self.see(place, output[0] if isinstance(output, tuple) else output)

        return keep

    def see(self, place: str, padded: Tensor) -> None:
        """Take the rows [D, S, ...] of all documents at one place."""
        for i, length in enumerate(self.lengths):
            self.seen[place, i] = padded[i, :length]


def _compare(expected: Places, found: Places) -> CheckResult:
    """Compare in the order of ``expected``, which is that of the computation."""
    assert expected.keys() == found.keys(), expected.keys() ^ found.keys()
    places = list(dict.fromkeys(place for place, _ in expected))
    distances = {place: _distance(place, expected, found) for place in places}
    first = next((place for place, (far, allowed) in distances.items() if not far <= allowed), None)
    return CheckResult(*distances[places[-1]], first_diverging=first, compared=places[-1])


def _distance(place: str, expected: Places, found: Places) -> tuple[float, float]:
    """Return the largest difference at one place and what is allowed there."""
    keys = [key for key in expected if key[0] == place]
    far = max(float((expected[key] - found[key]).abs().max()) for key in keys)
    largest = max(float(expected[key].abs().max()) for key in keys)
    return far, RELATIVE_TOLERANCE * max(1.0, largest)
