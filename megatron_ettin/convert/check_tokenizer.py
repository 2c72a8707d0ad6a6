"""Check the tokenizer of an export: it must encode texts as training assembles them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megatron_ettin.config.objectives import OBJECTIVES, is_encoder
from megatron_ettin.data.batch import assemble
from megatron_ettin.data.chunks import Chunk
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles

_NUM_TEXTS = 16
_TEXT_TOKENS = 24
_SEED = 20240607


def compare_tokenizers(folder: Path, trained: TokenizerFiles, objective: str) -> str:
    """Return the first difference between a released tokenizer and training, or an empty string.

    Args:
        folder: an exported model, whose tokenizer is loaded as a user would.
        trained: the checkpoint's tokenizer, with the special tokens of training.
        objective: the objective whose class was exported.
    """
    from transformers import AutoTokenizer

    released = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for role in OBJECTIVES[objective].special_tokens:
        expected, actual = trained.roles[role].id, getattr(released, f"{role}_token_id")
        if actual != expected:
            return f"the released tokenizer's {role} token is {actual}, in training it was {expected}"
    end = trained.closing_id(objective)
    if not is_encoder(objective) and released.eos_token_id != end:
        return f"the released tokenizer's eos token is {released.eos_token_id}, in training it was {end}"
    for text in check_texts(trained):
        expected_ids, ids = assembled_ids(trained, objective, text), _encode(released, text)
        if ids != expected_ids:
            return f"the released tokenizer encodes {text!r} as {ids}, training assembled {expected_ids}"
    return ""


def check_texts(tokenizer: TokenizerFiles) -> list[str]:
    """Return texts from all over the vocabulary, without special tokens, equal in every call; the first is empty."""
    ordinary = np.array(sorted(set(tokenizer.ids.values()) - tokenizer.special_ids), dtype=np.int64)
    if not len(ordinary):
        return [""]
    draws = np.random.default_rng(_SEED).choice(ordinary, (_NUM_TEXTS, _TEXT_TOKENS))
    return ["", *(tokenizer.decode(row) for row in draws.tolist())]


def assembled_ids(tokenizer: TokenizerFiles, objective: str, text: str) -> list[int]:
    """Return a text's token ids as training assembles them; a decoder's text is not closed, since it may continue."""
    (content,) = tokenizer.encode_batch([text])
    cls_id, closing_id = tokenizer.cls_id, tokenizer.closing_id(objective)
    assert cls_id is not None
    assert closing_id is not None
    chunk = Chunk(0, 0, np.array(content, dtype=np.int64), ends_document=False)
    packed = assemble([chunk], cls_id=cls_id, sep_id=closing_id, close_every_chunk=is_encoder(objective))
    ids: list[int] = packed.tokens_T.tolist()
    return ids


def _encode(released: Any, text: str) -> list[int]:
    ids: list[int] = released(text, verbose=False)["input_ids"]
    return ids
