"""Every backend on a GPU computes the same model, compared with PyTorch's fp32 layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.backend import TRANSFORMER_ENGINE, missing_hardware
from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from tests.helpers.batches import packed_batch, random_chunks
from tests.helpers.runs import TINY, tiny_run

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

SHAPE = replace(TINY, num_layers=5, hidden_size=256, ffn_hidden_size=384, vocab_size=512, sliding_window=32)
LENGTHS = (1, 2, 40, 300, 17, 64, 129, 77)
"""Shorter and longer than the window, on and off the kernels' block boundaries; 630 tokens."""
BF16_ERROR = 2e-2
"""Relative error of bf16 logits: 2^-9 per rounding, a few roundings per layer."""


def have_engine() -> bool:
    from megatron_ettin.runtime.backend import engine_obstacle
    from megatron_ettin.runtime.device import choose_device

    return not engine_obstacle(choose_device("auto"))


def backends() -> list[dict[str, Any]]:
    """Return the settings of the backends to compare with local fp32 layers."""
    settings: list[dict[str, Any]] = [{"transformer_impl": "local", "bf16": True}]
    if torch.cuda.is_available() and have_engine():
        settings.append({"transformer_impl": TRANSFORMER_ENGINE, "bf16": True})
    return settings


def fp8_recipes() -> list[str]:
    if not torch.cuda.is_available() or not have_engine():
        return []
    capability = torch.cuda.get_device_capability()
    return [name for name in ("delayed", "tensorwise", "blockwise", "mxfp8") if not missing_hardware(name, capability)]


def build(config: RunConfig) -> Any:
    """Join a world of one and build the run's Training."""
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process
    from megatron_ettin.train.build import build_training

    device = choose_device("cuda")
    return build_training(config, mask_kind_of(config.training.objective), device, start_process(config, device))


def run_of(objective: str, **overrides: Any) -> RunConfig:
    return tiny_run(objective, model=SHAPE, **{"device": "cuda", "transformer_impl": "local", **overrides})


def logits_of(training: Any, chunks: list[np.ndarray], pad_multiple: int = 1) -> np.ndarray:
    """Return logits [T, V] of all tokens of the packed chunks, without padding."""
    from megatron_ettin.model.packed_layout import PackedLayout

    batch = packed_batch(chunks, causal=True, pad_multiple=pad_multiple)
    lengths = tuple(np.diff(batch.cu_seqlens).tolist())
    tokens, starts, positions = (
        torch.from_numpy(array).cuda() for array in (batch.tokens_T, batch.cu_seqlens, batch.positions_T)
    )
    layout = PackedLayout.build(starts, positions, lengths)
    with torch.no_grad():
        logits = training.model.eval()(tokens, layout, torch.arange(batch.real_tokens, device="cuda"))
    return logits[:, : SHAPE.vocab_size].float().cpu().numpy()


def chunks_of(seed: int = 0) -> list[np.ndarray]:
    return random_chunks(np.random.default_rng(seed), LENGTHS, SHAPE.vocab_size)


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_bf16_logits_are_near_fp32(objective: str) -> None:
    chunks = chunks_of()
    exact = logits_of(build(run_of(objective)), chunks)
    for backend in backends():
        assert error(logits_of(build(run_of(objective, **backend)), chunks), exact) < BF16_ERROR, backend


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise", "mxfp8"])
def test_fp8_logits_are_near_fp32(objective: str, recipe: str) -> None:
    if recipe not in fp8_recipes():
        pytest.skip(f"this machine cannot run {recipe}")
    from megatron_ettin.config.backend import row_multiple

    chunks = chunks_of()
    exact = logits_of(build(run_of(objective)), chunks)
    run = run_of(objective, transformer_impl=TRANSFORMER_ENGINE, bf16=True, fp8_format="hybrid", fp8_recipe=recipe)
    # Three bits of mantissa: 2^-4 per rounding.
    assert error(logits_of(build(run), chunks, row_multiple(run.backend)), exact) < 0.15


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_chunks_do_not_attend_to_each_other(objective: str) -> None:
    chunks = chunks_of()
    others = chunks_of(seed=1)
    for backend in backends():
        training = build(run_of(objective, **backend))
        packed = logits_of(training, chunks)
        alone = np.concatenate([logits_of(training, [chunk]) for chunk in chunks])
        assert error(packed, alone) < BF16_ERROR / 2, backend
        middle = slice(sum(LENGTHS[:3]), sum(LENGTHS[:4]))
        changed = logits_of(training, [*others[:3], chunks[3], *others[4:]])
        np.testing.assert_array_equal(changed[middle], packed[middle], err_msg=str(backend))


def test_a_decoder_does_not_attend_to_later_tokens() -> None:
    chunks = chunks_of()
    changed = [chunk.copy() for chunk in chunks]
    changed[3][150:] = changed[3][150:][::-1]
    start = sum(LENGTHS[:3])
    for backend in backends():
        training = build(run_of("clm", **backend))
        before, after = logits_of(training, chunks), logits_of(training, changed)
        np.testing.assert_array_equal(before[start : start + 150], after[start : start + 150], err_msg=str(backend))
        assert not np.array_equal(before[start + 150 :], after[start + 150 :])


def test_flex_attention_equals_the_variable_length_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron_ettin.model import flash

    if not flash.has_windowed_varlen():
        pytest.skip("this PyTorch has no windowed variable-length attention to compare with")
    for objective in ("mlm", "clm"):
        training = build(run_of(objective, bf16=True))
        varlen = logits_of(training, chunks_of())
        with monkeypatch.context() as patched:
            patched.setattr(flash, "has_windowed_varlen", lambda: False)
            flex = logits_of(training, chunks_of())
        assert error(flex, varlen) < BF16_ERROR


def parameters(training: Any) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
    from megatron_ettin.checkpoint.tensors import weight_entries

    return {
        name: (tuple(entry.global_shape), entry.data.detach().float().cpu().numpy())
        for name, entry in weight_entries(training.model).items()
    }


def test_all_backends_have_the_same_checkpoint() -> None:
    exact = parameters(build(run_of("mlm", bf16=True)))
    for backend in backends():
        weights = parameters(build(run_of("mlm", **backend)))
        assert weights.keys() == exact.keys()
        for name, (shape, value) in exact.items():
            assert weights[name][0] == shape, name
            np.testing.assert_array_equal(weights[name][1], value, err_msg=name)


def losses(objective: str, steps: int = 100, **overrides: Any) -> list[float]:
    """Train on learnable rows and return the losses."""
    from megatron_ettin.config.backend import row_multiple
    from megatron_ettin.train.step import train_step

    run = run_of(objective, lr=1e-3, **overrides)
    training = build(run)
    curve = []
    for step in range(steps):
        rng = np.random.default_rng([step, 7])
        chunks = [chunk % (1 + chunk % 17) + 5 for chunk in random_chunks(rng, LENGTHS, SHAPE.vocab_size)]
        batch = packed_batch(
            chunks, causal=objective == "clm", seed=step, mask_id=4, pad_multiple=row_multiple(run.backend)
        )
        curve.append(train_step(training, [batch], run.optimizer.lr).sums.loss)
    return curve


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_training_is_near_fp32(objective: str) -> None:
    exact = losses(objective)
    assert np.mean(exact[-10:]) < 0.8 * exact[0]
    runs: list[dict[str, Any]] = backends()
    runs += [
        {"transformer_impl": TRANSFORMER_ENGINE, "bf16": True, "fp8_format": "hybrid", "fp8_recipe": recipe}
        for recipe in fp8_recipes()
    ]
    for backend in runs:
        curve = losses(objective, **backend)
        # Means over ten steps, as rounding matters more in single small batches.
        wanted, got = (np.reshape(values, (-1, 10)).mean(1) for values in (exact, curve))
        np.testing.assert_allclose(got, wanted, rtol=1e-2, err_msg=str(backend))
