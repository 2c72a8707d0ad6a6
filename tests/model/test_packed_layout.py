"""Documents packed in one row do not attend to each other."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.batches import random_chunks
from tests.helpers.distributed import run_ranks
from tests.helpers.models import build_stage, packed_logits
from tests.helpers.runs import tiny_run

LENGTHS = [40, 1, 23, 64, 9]


def logits_of_rows(objective: str, rows: list[list[np.ndarray]]) -> list[np.ndarray]:
    model = build_stage(tiny_run(objective))
    return [packed_logits(model, row) for row in rows]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_other_documents_change_no_bit(objective: str) -> None:
    rng = np.random.default_rng(1)
    chunks = random_chunks(rng, LENGTHS, 128)
    changed = list(chunks)
    changed[2] = random_chunks(rng, [LENGTHS[2]], 128)[0]
    before, after = run_ranks(1, logits_of_rows, objective, [chunks, changed])[0]
    start, end = sum(LENGTHS[:2]), sum(LENGTHS[:3])
    same = np.r_[0:start, end : sum(LENGTHS)]
    np.testing.assert_array_equal(before[same], after[same])
    assert np.abs(before[start:end] - after[start:end]).max() > 0.1


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_packed_equals_one_by_one(objective: str) -> None:
    chunks = random_chunks(np.random.default_rng(2), LENGTHS, 128)
    together, *alone = run_ranks(1, logits_of_rows, objective, [chunks, *[[chunk] for chunk in chunks]])[0]
    expected = np.concatenate(alone)
    np.testing.assert_allclose(together, expected, atol=1e-5 * np.abs(expected).max())


def test_causal_outputs_ignore_the_future() -> None:
    rng = np.random.default_rng(3)
    chunk = random_chunks(rng, [50], 128)[0]
    changed = chunk.copy()
    changed[30:] = rng.integers(5, 128, 20)
    before, after = run_ranks(1, logits_of_rows, "clm", [[chunk], [changed]])[0]
    np.testing.assert_allclose(before[:30], after[:30], atol=1e-6)
    assert np.abs(before[30:] - after[30:]).max() > 0.1
