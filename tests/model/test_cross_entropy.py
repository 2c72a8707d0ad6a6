"""Output matrix and vocabulary-parallel loss against float64 arithmetic."""

from __future__ import annotations

from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks

VOCAB, PADDING, SCORED, HIDDEN = 24, 7, 1500, 5


class Part(NamedTuple):
    """Results of one rank."""

    loss: float
    correct: int
    hidden: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def loss_of_part(
    hidden: np.ndarray, weight: np.ndarray, bias: np.ndarray, labels: np.ndarray, rows: int, precision: str = "float32"
) -> Part:
    """Return loss, correct predictions and the gradients of twice the loss on this rank's part of the vocabulary.

    ``rows`` is how many positions one chunk of logits holds.
    """
    import torch

    from megatron_ettin.model import cross_entropy
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import join_world

    join_world(choose_device("cpu"))
    group = torch.distributed.group.WORLD
    assert group is not None
    size, rank = group.size(), group.rank()
    leaves = [hidden, np.split(weight, size)[rank], np.split(bias, size)[rank]]
    dtype = getattr(torch, precision)
    tensors = tuple(torch.tensor(leaf, dtype=dtype, requires_grad=True) for leaf in leaves)
    states, matrix, offset = tensors
    per_rank = VOCAB // size
    true_rows = min(max(VOCAB - PADDING - rank * per_rank, 0), per_rank)
    with mock.patch.object(cross_entropy, "LOGITS_CHUNK_BYTES", {"cpu": rows * per_rank * dtype.itemsize}):
        value, correct = cross_entropy.scored_cross_entropy(
            states, matrix, offset, torch.from_numpy(labels), group, true_rows=true_rows
        )
    (2.0 * value).backward()
    return Part(value.item(), int(correct), *(leaf.grad.float().numpy() for leaf in tensors))  # type: ignore[union-attr]


@pytest.mark.parametrize(("world_size", "rows"), [(1, 10_000), (1, 64), (2, 1000), (4, 7)])
def test_equals_float64(world_size: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    hidden, weight = rng.standard_normal((SCORED, HIDDEN)), 3 * rng.standard_normal((VOCAB, HIDDEN))
    bias = rng.standard_normal(VOCAB)
    logits = (hidden @ weight.T + bias)[:, : VOCAB - PADDING]  # with four ranks, the last has padding only
    labels = np.where(rng.random(SCORED) < 0.3, logits.argmax(-1), rng.integers(0, VOCAB - PADDING, SCORED))
    parts = run_ranks(world_size, loss_of_part, hidden, weight, bias, labels, rows)

    expected_loss, slope = exact(logits, labels)
    for part in parts:
        np.testing.assert_allclose(part.loss, expected_loss, rtol=1e-6)
        assert part.correct == (logits.argmax(-1) == labels).sum()
        np.testing.assert_allclose(part.hidden, slope @ weight, atol=2e-5)
    np.testing.assert_allclose(np.concatenate([part.weight for part in parts]), slope.T @ hidden, atol=1e-3)
    np.testing.assert_allclose(np.concatenate([part.bias for part in parts]), slope.sum(0), atol=1e-3)


def exact(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the loss, and the gradient of twice the loss with respect to all logits, including padding."""
    log_total = np.log(np.exp(logits).sum(-1))
    loss = float((log_total - logits[np.arange(len(logits)), labels]).sum())
    slope = np.zeros((len(logits), VOCAB))
    slope[:, : VOCAB - PADDING] = np.exp(logits - log_total[:, None]) - np.eye(VOCAB)[labels][:, : VOCAB - PADDING]
    return loss, 2.0 * slope


def test_bf16_is_within_its_rounding_error() -> None:
    rng = np.random.default_rng(1)
    # Inputs are exact in bf16, so that only computed values are rounded.
    hidden = rng.integers(-8, 9, (SCORED, HIDDEN)) / 8
    weight, bias = rng.integers(-8, 9, (VOCAB, HIDDEN)) / 8, rng.integers(-8, 9, VOCAB) / 8
    labels = rng.integers(0, VOCAB - PADDING, SCORED)
    [part] = run_ranks(1, loss_of_part, hidden, weight, bias, labels, 64, "bfloat16")
    loss, slope = exact((hidden @ weight.T + bias)[:, : VOCAB - PADDING], labels)
    np.testing.assert_allclose(part.loss, loss, rtol=1e-3)
    for got, wanted in ((part.hidden, slope @ weight), (part.weight, slope.T @ hidden), (part.bias, slope.sum(0))):
        assert np.linalg.norm(got - wanted) < 1e-2 * np.linalg.norm(wanted)


def test_without_scored_tokens_the_loss_is_zero() -> None:
    hidden, weight, bias = np.zeros((0, HIDDEN)), np.ones((VOCAB, HIDDEN)), np.ones(VOCAB)
    part = run_ranks(1, loss_of_part, hidden, weight, bias, np.zeros(0, np.int64), 8)[0]
    assert (part.loss, part.correct, part.hidden.shape) == (0.0, 0, (0, HIDDEN))
    assert not part.weight.any()
    assert not part.bias.any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_of_equal_logits_the_first_is_predicted(world_size: int, precision: str) -> None:
    """As argmax does; logits are small whole numbers, so that most rows have several largest ones."""
    rng = np.random.default_rng(4)
    hidden = rng.integers(0, 2, (SCORED, HIDDEN)).astype(float)
    weight, bias = rng.integers(0, 2, (VOCAB, HIDDEN)).astype(float), np.zeros(VOCAB)
    logits = (hidden @ weight.T)[:, : VOCAB - PADDING]
    best = logits == logits.max(-1, keepdims=True)
    assert (best.sum(-1) > 1).mean() > 0.5
    labels = np.array([rng.choice(np.flatnonzero(row)) for row in best])  # one of the largest, often not the first
    for part in run_ranks(world_size, loss_of_part, hidden, weight, bias, labels, 64, precision):
        assert part.correct == (logits.argmax(-1) == labels).sum()
