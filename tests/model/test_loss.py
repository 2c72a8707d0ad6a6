"""The vocabulary-parallel loss against float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks

VOCAB, SCORED = 24, 1500


def loss_of_part(logits: np.ndarray, labels: np.ndarray) -> tuple[float, int, np.ndarray]:
    """Return loss, correct labels and this rank's part of the gradient."""
    import torch

    from megatron_ettin.model.loss import scored_cross_entropy
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import join_world

    join_world(choose_device("cpu"))
    group = torch.distributed.group.WORLD
    assert group is not None
    part = torch.tensor(np.split(logits, group.size(), axis=1)[group.rank()], requires_grad=True)
    # Through one operation, as the output layer's logits come: a leaf may not be overwritten.
    loss, correct = scored_cross_entropy(part * 1.0, torch.from_numpy(labels), group)
    (2.0 * loss).backward()
    return loss.item(), int(correct), part.grad.numpy()  # type: ignore[union-attr]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_equals_float64(world_size: int) -> None:
    rng = np.random.default_rng(0)
    logits = 8 * rng.standard_normal((SCORED, VOCAB)).astype(np.float32)
    logits[:, -7:] = -np.inf  # padding; with four ranks it fills the last one
    labels = np.where(rng.random(SCORED) < 0.3, logits.argmax(-1), rng.integers(0, VOCAB - 7, SCORED))
    results = run_ranks(world_size, loss_of_part, logits, labels)

    exact = logits.astype(np.float64)
    log_total = np.log(np.exp(exact).sum(-1))
    expected_loss = (log_total - exact[np.arange(SCORED), labels]).sum()
    softmax = np.exp(exact - log_total[:, None])
    expected_gradient = 2.0 * (softmax - np.eye(VOCAB)[labels])
    for loss, correct, _ in results:
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
        assert correct == (logits.argmax(-1) == labels).sum()
    gradient = np.concatenate([part for *_, part in results], axis=1)
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-6)


def test_nothing_scored_is_zero() -> None:
    loss, correct, gradient = run_ranks(1, loss_of_part, np.zeros((0, 8), np.float32), np.zeros(0, np.int64))[0]
    assert (loss, correct, gradient.shape) == (0.0, 0, (0, 8))
