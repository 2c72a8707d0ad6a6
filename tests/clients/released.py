"""A trained and released pair, with the helpers of its tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["encoder", "decoder"]
KINDS: tuple[Kind, ...] = ("encoder", "decoder")

TOLERANCE = 2e-5
"""Share of the largest value (at least 1) that exceeds fp32 reordering noise."""


@dataclass(frozen=True)
class Released:
    """Paths and contents of the pair."""

    folder: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "data" / "corpus.jsonl"

    def checkpoints(self, kind: Kind) -> Path:
        """The --save folder of the run."""
        return self.folder / kind

    def model(self, kind: Kind) -> Path:
        """The Hugging Face folder."""
        return self.folder / kind / "hf"

    def texts(self, number: int, *, shortest: int = 0, longest: int = 1 << 30) -> list[str]:
        """The first documents of the corpus with a length in characters within two bounds."""
        documents = map(json.loads, self.corpus.read_text(encoding="utf-8").splitlines())
        texts = [text for text in (document["text"] for document in documents) if shortest <= len(text) <= longest]
        assert len(texts) >= number, f"the corpus has {len(texts)} such documents"
        return texts[:number]

    def checkpoint_logits(self, kind: Kind, documents: list[Tensor]) -> list[Tensor]:
        """Logits [S, V] of each document, computed from the checkpoint's tensors without transformers."""
        from megatron_ettin.checkpoint.folder.layout import read_run_json, resolve_checkpoint
        from megatron_ettin.config.objectives import mask_kind_of
        from megatron_ettin.config.run import RunConfig
        from megatron_ettin.convert.checkpoint_reader import CheckpointReader
        from megatron_ettin.convert.reference import reference_logits

        step = resolve_checkpoint(str(self.checkpoints(kind)))
        model = RunConfig.from_dict(read_run_json(step)["config"]).model
        mask = mask_kind_of("mlm" if kind == "encoder" else "clm")
        return reference_logits(CheckpointReader(step).tensor, model, mask, documents)


def load_model(released: Released, kind: Kind, **options: Any) -> Any:
    """Load a model with its prediction head."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    auto: Any = AutoModelForMaskedLM if kind == "encoder" else AutoModelForCausalLM
    return auto.from_pretrained(released.model(kind), **options).eval()


def load_tokenizer(released: Released, kind: Kind) -> Any:
    """Load a released tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(released.model(kind))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Fail if two computations of the same values differ by more than fp32 noise."""
    assert actual.shape == expected.shape
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=allowed)
