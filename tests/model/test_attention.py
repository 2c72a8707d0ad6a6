"""Packed attention against a dense float64 softmax with the mask written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks

LENGTHS = (1, 15, 16, 17, 40, 2)


def dense_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, lengths: tuple[int, ...], left: float, right: float
) -> np.ndarray:
    """Softmax attention in float64; ``left``/``right`` limit the keys of each query, infinity does not."""
    chunk = np.repeat(np.arange(len(lengths)), lengths)
    distance = np.arange(len(chunk))[None, :] - np.arange(len(chunk))[:, None]
    seen = (chunk[:, None] == chunk[None, :]) & (distance >= -left) & (distance <= right)
    scores = np.einsum("qnd,knd->nqk", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(np.where(seen, scores, -np.inf))
    return np.einsum("nqk,knd->qnd", weights / weights.sum(-1, keepdims=True), v)


def packed_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, lengths: tuple[int, ...], window: tuple[int, int] | None, causal: bool
) -> list[np.ndarray]:
    """The package's attention on the same arrays, with the gradient of its sum of squares."""
    import torch

    from megatron_ettin.model.attention import attend_by_chunk, attend_in_band
    from megatron_ettin.model.packed_layout import PackedLayout

    cu_seqlens = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths])
    layout = PackedLayout.build(cu_seqlens, positions, lengths)
    query, key, value = (torch.tensor(x, requires_grad=True) for x in (q, k, v))
    if window is None:
        out = attend_by_chunk(query, key, value, lengths, causal=causal)
    else:
        out = attend_in_band(query, key, value, layout.band(window, query.dtype))
    out.square().sum().backward()
    return [x.detach().numpy() for x in (out, query.grad, key.grad, value.grad)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("window", "causal"),
    [(None, False), (None, True), ((8, 8), False), ((7, 0), True), ((8, 0), True), ((24, 24), False), ((3, 1), False)],
)
def test_equals_dense_reference(window: tuple[int, int] | None, causal: bool) -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, sum(LENGTHS), 2, 8))
    out, *gradients = run_ranks(1, packed_attention, q, k, v, LENGTHS, window, causal)[0]
    left, right = window or (math.inf, 0 if causal else math.inf)
    np.testing.assert_allclose(out, dense_attention(q, k, v, LENGTHS, left, right), atol=1e-12)
    # Gradients against central differences along one random direction of each input.
    inputs = [q, k, v]
    for index, gradient in enumerate(gradients):
        direction = rng.standard_normal(q.shape)
        moved = []
        for sign in (1e-6, -1e-6):
            qs, ks, vs = (x + sign * direction if i == index else x for i, x in enumerate(inputs))
            moved.append((dense_attention(qs, ks, vs, LENGTHS, left, right) ** 2).sum())
        np.testing.assert_allclose((gradient * direction).sum(), (moved[0] - moved[1]) / 2e-6, rtol=1e-6)


def rotate_by_hand(positions: list[int], base: float) -> np.ndarray:
    """Rotate a fixed vector with the package's tables."""
    import torch

    from megatron_ettin.model.packed_layout import rotary_tables, rotate

    x = torch.arange(1.0, 9.0).repeat(len(positions), 1, 1)
    return rotate(x, *rotary_tables(torch.tensor(positions), 8, base)).numpy()


def test_rotation_rotates_half_split_pairs() -> None:
    positions, base = [0, 1, 5], 10_000.0
    turned = run_ranks(1, rotate_by_hand, positions, base)[0]
    for row, position in enumerate(positions):
        for pair in range(4):
            angle = position * base ** (-2 * pair / 8)
            first, second = pair + 1.0, pair + 5.0
            expected = (
                first * math.cos(angle) - second * math.sin(angle),
                second * math.cos(angle) + first * math.sin(angle),
            )
            np.testing.assert_allclose(turned[row, 0, [pair, pair + 4]], expected, rtol=1e-6)


def _kernel_flops(query: tuple[int, ...], key: tuple[int, ...], *args: object, **kwargs: object) -> int:
    batch, heads, queries, size = query
    return 2 * 2 * batch * heads * queries * key[2] * size


def attention_flops(length: int, window: tuple[int, int] | None) -> int:
    """Return the floating-point operations of attention over one chunk, by PyTorch's counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from megatron_ettin.model.attention import attend_by_chunk, attend_in_band
    from megatron_ettin.model.packed_layout import PackedLayout

    lengths = (length,) * 4
    layout = PackedLayout.build(torch.arange(5, dtype=torch.int32) * length, torch.arange(length).repeat(4), lengths)
    x = torch.zeros(4 * length, 2, 8)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: _kernel_flops}) as counter:
        if window is None:
            attend_by_chunk(x, x, x, lengths, causal=False)
        else:
            attend_in_band(x, x, x, layout.band(window, x.dtype))
    return counter.get_total_flops()


def test_masked_pairs_are_not_computed() -> None:
    """Four chunks cost four times one chunk, and a local layer's cost is linear in their length."""
    whole, local, local_of_double = (
        run_ranks(1, attention_flops, length, window)[0]
        for length, window in ((256, None), (256, (64, 64)), (512, (64, 64)))
    )
    pair = 2 * 2 * 2 * 8  # two products of 8 multiply-adds, for two heads
    assert whole == 4 * 256 * 256 * pair
    assert local == 4 * 256 * 3 * 64 * pair
    assert local_of_double == 2 * local
