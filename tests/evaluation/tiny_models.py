"""Small models with random weights, built from the classes of transformers only."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

TEXT = "the quick brown fox jumps over the lazy dog and the small cat watches the quick fox from the warm window sill"
SPECIAL_TOKENS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


@cache
def tokenizer() -> Any:
    """Return a byte-level BPE tokenizer that starts each text with [CLS], like the released ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="[UNK]"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    bpe.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(vocab_size=128, special_tokens=SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]",
    )  # fmt: skip


@cache
def released_model(kind: str) -> Any:
    """Return a two-layer encoder or decoder whose logits are far from uniform."""
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    torch.manual_seed(5)
    model: Any
    if kind == "encoder":
        model = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**shape))
    else:
        model = transformers.ModernBertDecoderForCausalLM(transformers.ModernBertDecoderConfig(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()
