"""The rows of each step, and their distribution over ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from megatron_ettin.data.batch_plan import BatchRule, StepPlan, warmed_up_size


class Rows:
    """Rows with periodic sizes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = np.array(sizes)

    def tokens(self, start: int, stop: int, *, close_every_chunk: bool) -> NDArray[np.int64]:
        return self.sizes[np.arange(start, stop) % len(self.sizes)] - (not close_every_chunk)


@given(st.integers(0, 5), st.sampled_from([(8, 1), (8, 2), (24, 3), (12, 4)]), st.sampled_from([1, 2, 4]))
def test_ranks_partition_a_step(step: int, sizes: tuple[int, int], ranks: int) -> None:
    global_batch, micro_batch = sizes[0] * ranks, sizes[1]
    plan = StepPlan(BatchRule(rows=global_batch, micro_rows=micro_batch), Rows([1]))
    per_rank = [plan.micro_batches(step, rank, ranks) for rank in range(ranks)]
    assert all(len(batch) == micro_batch for batches in per_rank for batch in batches)
    in_order = [sample for batches in zip(*per_rank, strict=True) for batch in batches for sample in batch]
    assert in_order == list(range(step * global_batch, (step + 1) * global_batch))


rules = st.builds(
    BatchRule,
    rows=st.integers(1, 30),
    micro_rows=st.integers(1, 5),
    tokens=st.sampled_from([0, 50, 400, 5000]),
    micro_tokens=st.sampled_from([0, 50, 120]),
    first_size=st.integers(1, 40),
    warmup_tokens=st.sampled_from([0, 500, 20_000]),
    close_every_chunk=st.booleans(),
)


@settings(deadline=None)
@given(rules, st.lists(st.integers(2, 50), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 11))
def test_steps_are_contiguous_on_any_ranks_and_after_a_resume(
    rule: BatchRule, sizes: list[int], ranks: int, resumed: int
) -> None:
    rows = Rows(sizes)
    plan = StepPlan(rule, rows, counts_tokens=True)
    steps = [plan.of(step) for step in range(12)]
    assert steps[0].start == 0
    assert [step.stop for step in steps[:-1]] == [step.start for step in steps[1:]]
    tokens = 0
    for number, step in enumerate(steps):
        assert step.tokens_before == tokens
        tokens += int(rows.tokens(step.start, step.stop, close_every_chunk=rule.close_every_chunk).sum())
        per_rank = [plan.micro_batches(number, rank, ranks) for rank in range(ranks)]
        assert len({len(batches) for batches in per_rank}) == 1, "all ranks make the same number of passes"
        batches = [batch for batches in zip(*per_rank, strict=True) for batch in batches if len(batch)]
        assert [row for batch in batches for row in batch] == list(range(step.start, step.stop))
        for batch in batches:
            tokens_of_batch = rows.tokens(batch.start, batch.stop, close_every_chunk=True).sum()
            assert tokens_of_batch <= rule.micro_tokens if rule.micro_tokens else len(batch) <= rule.micro_rows
        size = rule.size_after(step.tokens_before)
        if rule.tokens:
            more = rows.tokens(step.start, step.stop + 1, close_every_chunk=True)
            assert more[:-1].sum() <= size or len(step) == 1
            assert more.sum() > size, "one more row would not fit"
        else:
            assert len(step) == size
    later = steps[resumed]
    again = StepPlan(rule, rows, step=resumed, sample=later.start, tokens=later.tokens_before, counts_tokens=True)
    assert [again.of(step) for step in range(resumed, 12)] == steps[resumed:]


@pytest.mark.parametrize(
    ("first", "full", "warmup"), [(1, 8, 1000), (24, 1152, 50_000), (3, 4, 10), (576, 4608, 10**9)]
)
def test_warm_up_spends_tokens_in_proportion_to_the_size(first: int, full: int, warmup: int) -> None:
    total = sum(range(first, full))
    # The size reaches b once all smaller sizes have received their tokens.
    for size in {first, first + 1, (first + full) // 2, full - 1} & set(range(first, full)):
        start = sum(range(first, size)) * warmup / total
        stop = sum(range(first, size + 1)) * warmup / total
        for tokens in np.unique(np.linspace(np.ceil(start), np.ceil(stop) - 1, 5).astype(int)).tolist():
            if start <= tokens < stop:
                assert warmed_up_size(first, full, tokens, warmup) == size
    rule = BatchRule(rows=full, micro_rows=1, first_size=first, warmup_tokens=warmup)
    assert rule.size_after(0) == first
    assert rule.size_after(warmup) == full
