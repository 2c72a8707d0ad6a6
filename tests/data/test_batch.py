"""Packed batches: special tokens, targets and padding."""

from __future__ import annotations

import numpy as np

from megatron_ettin.data.batch import assemble, make_batch, next_token_targets
from megatron_ettin.data.chunks import Chunk

CLS, SEP, PAD = 1, 2, 3
CHUNKS = [
    Chunk(0, 0, np.array([10, 11]), False),
    Chunk(0, 1, np.array([12]), True),
    Chunk(4, 0, np.array([13, 14]), True),
]


def test_encoder_closes_every_chunk() -> None:
    packed = assemble(CHUNKS, cls_id=CLS, sep_id=SEP, close_every_chunk=True)
    assert packed.tokens_T.tolist() == [CLS, 10, 11, SEP, CLS, 12, SEP, CLS, 13, 14, SEP]
    assert packed.positions_T.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]
    assert packed.cu_seqlens.tolist() == [0, 4, 7, 11]
    assert packed.tokens_T[packed.content_T].tolist() == [10, 11, 12, 13, 14]


def test_decoder_closes_document_ends_only_and_predicts_within_chunks() -> None:
    packed = assemble(CHUNKS, cls_id=CLS, sep_id=SEP, close_every_chunk=False)
    assert packed.tokens_T.tolist() == [CLS, 10, 11, CLS, 12, SEP, CLS, 13, 14, SEP]
    scored, labels = next_token_targets(packed, {CLS, PAD, 13})
    assert packed.tokens_T[scored].tolist() == [CLS, 10, CLS, 12, 13, 14]
    assert labels.tolist() == [10, 11, 12, SEP, 14, SEP], "13 is never a target"


def test_padding_is_a_chunk() -> None:
    packed = assemble(CHUNKS, cls_id=CLS, sep_id=SEP, close_every_chunk=False)
    none = np.zeros(0, dtype=np.int64)
    batch = make_batch(packed, inputs_T=packed.tokens_T, scored_K=none, labels_K=none, pad_id=PAD, pad_multiple=4)
    assert batch.tokens_T.tolist() == [*packed.tokens_T, PAD, PAD]
    assert batch.positions_T.tolist()[-2:] == [0, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 6, 10, 12]
    assert batch.real_tokens == 10
    assert batch.cu_seqlens.dtype == np.int32
    full = make_batch(packed, inputs_T=packed.tokens_T, scored_K=none, labels_K=none, pad_id=PAD, pad_multiple=5)
    assert full.cu_seqlens.tolist() == [0, 3, 6, 10]


def test_a_batch_without_chunks_is_padding() -> None:
    none = np.zeros(0, dtype=np.int64)
    packed = assemble([], cls_id=CLS, sep_id=SEP, close_every_chunk=True)
    batch = make_batch(packed, inputs_T=none, scored_K=none, labels_K=none, pad_id=PAD, pad_multiple=2)
    assert batch.tokens_T.tolist() == [PAD, PAD]
    assert (batch.cu_seqlens.tolist(), batch.real_tokens) == ([0, 2], 0)
