"""A trained and released pair, and what tests ask of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["encoder", "decoder"]
KINDS: tuple[Kind, ...] = ("encoder", "decoder")

FAR_APART = 2e-5
"""fp32 reordering noise stays below this share of the largest value (at least 1)."""


@dataclass(frozen=True)
class Released:
    """Where things are."""

    folder: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "data" / "corpus.jsonl"

    def checkpoints(self, kind: Kind) -> Path:
        """The run's folder."""
        return self.folder / kind

    def model(self, kind: Kind) -> Path:
        """The Hugging Face folder."""
        return self.folder / kind / "hf"

    def texts(self, number: int, *, shortest: int = 0, longest: int = 1 << 30) -> list[str]:
        """The first documents of the corpus whose length in characters lies between two bounds."""
        documents = map(json.loads, self.corpus.read_text(encoding="utf-8").splitlines())
        found = [text for text in (document["text"] for document in documents) if shortest <= len(text) <= longest]
        assert len(found) >= number, f"the corpus has {len(found)} such documents"
        return found[:number]

    def checkpoint_logits(self, kind: Kind, documents: list[Tensor]) -> list[Tensor]:
        """Logits [S, V] of each document, from the checkpoint's own tensors by the plain formulas: no transformers."""
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


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Fail where two computations of one thing differ by more than fp32's noise."""
    assert found.shape == expected.shape
    allowed = FAR_APART * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed)
