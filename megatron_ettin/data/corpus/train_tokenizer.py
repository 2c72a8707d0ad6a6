"""Training of a byte-level BPE tokenizer with ModernBERT's special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ettin.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from ``texts``.

    A space is part of the token that follows it, and none is added before a text, so decoding restores the text
    exactly. With special tokens, an encoded text is [CLS] text [SEP].

    Raises:
        ConfigError: the vocabulary is too small for the special tokens and the bytes, or the texts are too few to fill
            it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if vocab_size < _BYTES + len(SPECIAL_TOKENS):
        raise ConfigError(f"--vocab-size {vocab_size}: must be at least {_BYTES + len(SPECIAL_TOKENS)}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # [MASK] includes the space before it, as the word that it replaces does.
    special = [AddedToken(token, special=True, lstrip=token == "[MASK]") for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        learned = tokenizer.get_vocab_size()
        raise ConfigError(f"--vocab-size {vocab_size}: the text yields only {learned} tokens; use more text, or fewer")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer folder, which transformers' AutoTokenizer loads too."""
    folder.mkdir(parents=True, exist_ok=True)
    roles = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", roles)
    tokenizer.save(str(folder / "tokenizer.json"))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
