"""Small models, tokenizers and folders for tests of the conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.convert.hf_config import config_to_hf
from megatron_ettin.convert.hf_tokenizer import SpecialToken, SpecialTokens, write_json
from megatron_ettin.convert.tensor_names import TensorName, tensor_names

OBJECTIVES: tuple[str, ...] = ("mlm", "clm")

MODEL = ModelConfig(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=2,
    vocab_size=128,
    sliding_window=128,
    rope_global_base=160_000.0,
    rope_local_base=10_000.0,
)
"""Two global and two local layers; the two RoPE bases differ."""

TOKENS = SpecialTokens(*(SpecialToken(f"[{role}]", i) for i, role in enumerate(("CLS", "SEP", "PAD", "MASK", "UNK"))))


def random_tensors(objective: str, model: ModelConfig = MODEL, seed: int = 0) -> dict[str, Tensor]:
    """Return canonical tensors away from neutral values: norms are not 1, biases not 0."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in tensor_names(objective, model):
        noise = torch.randn(name.shape, generator=generator)
        is_norm = "norm" in name.canonical
        tensors[name.canonical] = 1.0 + 0.3 * noise if is_norm else 0.25 * noise
    return tensors


def write_tokenizer(folder: Path, vocab_size: int = MODEL.vocab_size) -> None:
    """Write a word-level tokenizer of ``vocab_size`` words (w5, w6, ...), with truncation left on as after training."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = [token.text for token in TOKENS.named().values()]
    words += [f"w{i}" for i in range(len(words), vocab_size)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token.text, special=True) for token in TOKENS.named().values()])
    tokenizer.enable_truncation(10)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", "cls_token": "[CLS]"})


def hf_model(objective: str, model: ModelConfig = MODEL, **changes: Any) -> Any:
    """Build transformers' model of a shape, with weights away from neutral values as in :func:`random_tensors`."""
    import transformers

    config = config_to_hf(model, objective, max_positions=1024, tokens=TOKENS, dtype="float32") | changes
    hf_class = getattr(transformers, config["architectures"][0])
    hf = hf_class(hf_class.config_class(**config)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.3 * noise if "norm" in name else 0.25 * noise)
    return hf


def write_hub_folder(folder: Path, objective: str, model: ModelConfig = MODEL, **changes: Any) -> Any:
    """Write a model folder as transformers saves it, and return the model."""
    folder.mkdir()
    hf = hf_model(objective, model, **changes)
    hf.save_pretrained(folder)
    write_tokenizer(folder, model.vocab_size)
    return hf


def misplace_rows(monkeypatch: pytest.MonkeyPatch, canonical: str) -> None:
    """Make exports move the first row of one tensor to its end."""
    from megatron_ettin.convert import export

    right = export.row_blocks

    def wrong(name: TensorName, num_heads: int) -> tuple[list[range], ...]:
        (block, *blocks), *others = right(name, num_heads)
        if name.canonical != canonical:
            return [block, *blocks], *others
        return [range(block.start + 1, block.stop), *blocks, range(block.start, block.start + 1)], *others

    monkeypatch.setattr(export, "row_blocks", wrong)
