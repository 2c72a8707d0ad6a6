"""Named settings: what a preset sets, as data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from megatron_ettin.config.fields import Value

ETTIN_VOCAB_SIZE = 50_368
"""Tokens of the tokenizer that the Ettin models were published with."""


def _shape(layers: int, hidden: int, ffn: int, heads: int) -> dict[str, Value]:
    return {"num_layers": layers, "hidden_size": hidden, "ffn_hidden_size": ffn, "num_attention_heads": heads}


PRESETS: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {
        "nano": _shape(4, 192, 288, 4),
        "ettin-17m": {**_shape(7, 256, 384, 4), "vocab_size": ETTIN_VOCAB_SIZE},
        "ettin-32m": {**_shape(10, 384, 576, 6), "vocab_size": ETTIN_VOCAB_SIZE},
        "ettin-68m": {**_shape(19, 512, 768, 8), "vocab_size": ETTIN_VOCAB_SIZE},
        "ettin-150m": {**_shape(22, 768, 1152, 12), "vocab_size": ETTIN_VOCAB_SIZE},
        "ettin-400m": {**_shape(28, 1024, 2624, 16), "vocab_size": ETTIN_VOCAB_SIZE},
        "ettin-1b": {**_shape(28, 1792, 3840, 28), "vocab_size": ETTIN_VOCAB_SIZE},
    }
)
"""The six sizes of the Ettin paper (its Table 1), and ``nano``: about 2M parameters with a vocabulary of 4096, which
the tokenizer decides. All have a first and a last layer that are global: their layers less one are a multiple of 3."""
