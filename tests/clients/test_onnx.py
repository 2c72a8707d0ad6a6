"""A released model exported to ONNX with dynamic batch and length, and run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.clients.released import KINDS, Kind, Released, load_model, load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LARGEST_DIFFERENCE = 1e-4


class Logits(nn.Module):
    """The exported function: from token ids and mask to logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        options = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **options).logits
        return logits


def export(model: Any, tokenizer: Any, file: Path) -> None:
    example = tokenizer(["import os", "def f(x):\n    return x"], return_tensors="pt", padding=True)
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    torch.onnx.export(
        Logits(model).eval(),
        (example["input_ids"], example["attention_mask"]),
        file,
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_logits_equal_transformers(released: Released, kind: Kind, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, tokenizer = load_model(released, kind), load_tokenizer(released, kind)
    export(model, tokenizer, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    long = released.texts(5, shortest=700)
    for batch in (["x"], [long[0]], [long[1][:700], "def f(", long[2][:90]], [text[:250] for text in long]):
        encoded = tokenizer(batch, return_tensors="pt", padding=True)
        with torch.no_grad():
            expected = model(**encoded).logits
        (logits,) = session.run(None, {name: encoded[name].numpy() for name in ("input_ids", "attention_mask")})
        unpadded = encoded["attention_mask"].bool()
        assert logits.shape == expected.shape
        assert float((torch.from_numpy(logits) - expected)[unpadded].abs().max()) <= LARGEST_DIFFERENCE
