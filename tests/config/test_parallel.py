"""Distribution of layers over pipeline stages and of the vocabulary over tensor-parallel ranks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.parallel import ParallelConfig, data_parallel_size, padded_vocab_size, stage_layers


@given(stages=st.integers(1, 32), extra=st.integers(0, 100))
def test_stages_have_all_layers_and_differ_by_one(stages: int, extra: int) -> None:
    counts = stage_layers(stages + extra, stages)
    assert len(counts) == stages
    assert sum(counts) == stages + extra
    assert min(counts) >= 1
    assert max(counts) - min(counts) <= 1


@given(stages=st.integers(3, 32), extra=st.integers(0, 100))
def test_first_and_last_stage_have_at_most_as_many_layers_as_the_middle(stages: int, extra: int) -> None:
    first, *middle, last = stage_layers(stages + extra, stages)
    assert max(first, last) <= max(middle)
    assert last <= first  # head and loss cost more than the embedding


def test_stage_layers_of_known_shapes() -> None:
    assert stage_layers(7, 2) == (4, 3)
    assert stage_layers(19, 2) == (10, 9)
    assert stage_layers(22, 4) == (5, 6, 6, 5)


def test_data_parallel_size_is_the_rest_of_the_world() -> None:
    assert data_parallel_size(ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2), 12) == 3


@given(vocab_size=st.integers(1, 10**6), tp=st.sampled_from([1, 2, 4, 8]))
def test_padded_vocabulary(vocab_size: int, tp: int) -> None:
    padded = padded_vocab_size(vocab_size, tp)
    assert padded % (8 * tp) == 0
    assert vocab_size <= padded < vocab_size + 8 * tp


def test_published_vocabulary_needs_no_padding() -> None:
    assert [padded_vocab_size(50_368, tp) for tp in (1, 2, 4, 8)] == [50_368] * 4
