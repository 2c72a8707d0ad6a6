"""Presets against the published recipe, restated here from the paper and the authors' training configurations."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_ettin.config.checks import check_data
from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.presets import SIZES, preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import PHASES
from megatron_ettin.planning.plan import Plan
from megatron_ettin.train.preflight.prepare import prepare_run

B = 10**9
PEAKS = {"17m": 3e-3, "32m": 3e-3, "68m": 3e-3, "150m": 8e-4, "400m": 5e-4, "1b": 5e-4}
DECAYS = {"17m": 3e-4, "32m": 3e-4, "68m": 3e-4, "150m": 1e-5, "400m": 1e-5, "1b": 5e-5}
WARMUPS = {"17m": 4 * B, "32m": 4 * B, "68m": 3 * B, "150m": 3 * B, "400m": 2 * B, "1b": 2 * B}
RESET_ROPE = ("17m", "32m", "68m", "400m")
PARAMETERS = {
    "17m": 16_913_600,
    "32m": 32_081_344,
    "68m": 68_457_664,
    "150m": 149_655_232,
    "400m": 395_881_664,
    "1b": 1_031_314_112,
}


def resolve(size: str, phase: str, objective: str = "mlm", *more: str) -> RunConfig:
    arguments = ["--preset", f"ettin-{size}", "--phase", phase, "--objective", objective, *more]
    return prepare_run(parse_command([*arguments, "--dry-run"]), world_size=1).config


def planned(size: str, phase: str, objective: str = "mlm") -> Plan:
    from megatron_ettin.optim.schedules import learning_rate_path
    from megatron_ettin.planning.plan import build_plan

    config = resolve(size, phase, objective)
    return build_plan(config, world_size=1, rates=learning_rate_path(config.optimizer, config.training))


def local_base(size: str, phase: str, objective: str) -> float:
    if phase == "pretrain" or (size, phase) == ("17m", "extend"):
        return 10_000.0
    return 10_000.0 if phase == "decay" and objective == "clm" and size in RESET_ROPE else 160_000.0


@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", SIZES)
def test_rope_bases_by_size_phase_and_kind(size: str, phase: str, objective: str) -> None:
    model = resolve(size, phase, objective).model
    assert model.rope_global_base == (10_000.0 if phase == "pretrain" else 160_000.0)
    assert model.rope_local_base == local_base(size, phase, objective)


@pytest.mark.parametrize("size", SIZES)
def test_learning_rates_and_durations(size: str) -> None:
    peak, small = PEAKS[size], size != "1b"
    runs = {phase: resolve(size, phase) for phase in PHASES}
    tokens = {phase: run.training.train_tokens for phase, run in runs.items()}
    third = {"pretrain": 567 * B, "extend": 83_333_000_000, "decay": 16_666_666_667, "cross": 16_666_666_667}
    assert tokens == ({"pretrain": 1700 * B, "extend": 250 * B, "decay": 50 * B, "cross": 50 * B} if small else third)
    factors = {"pretrain": (1, 0), "extend": (1, 0.5), "decay": (0.5, 0.02), "cross": (0.5, 0.01)}
    for phase, run in runs.items():
        optimizer = run.optimizer
        assert (optimizer.lr, optimizer.min_lr) == pytest.approx([peak * factor for factor in factors[phase]])
        assert optimizer.weight_decay == DECAYS[size]
        assert (optimizer.optimizer, optimizer.adam_beta1, optimizer.adam_beta2) == ("stable_adamw", 0.9, 0.98)
        assert (optimizer.adam_eps, optimizer.clip_grad) == (1e-6, 0.0)
        # Relative to the first phase's peak while phases keep the optimizer state.
        assert (optimizer.max_lr or optimizer.lr) == (peak / 2 if phase == "cross" else peak)
    assert runs["pretrain"].optimizer.lr_warmup_tokens == WARMUPS[size]
    cross = runs["cross"].optimizer
    assert (cross.lr_warmup_tokens, cross.lr_wsd_decay_tokens) == ((3 * B, 10 * B) if small else (B, 3_333_000_000))
    styles = [run.optimizer.lr_decay_style for run in runs.values()]
    assert styles == ["WSD", "1-sqrt", "1-sqrt", "WSD"]


@pytest.mark.parametrize("size", SIZES)
def test_settings_common_to_all_sizes(size: str) -> None:
    runs = [resolve(size, phase) for phase in PHASES]
    assert [run.data.seq_length for run in runs] == [1024, 7999, 7999, 7999]
    assert [run.data.mlm_probability for run in runs] == [0.3, 0.3, 0.15, 0.15]
    assert [run.training.seed for run in runs] == [21, 21, 21, 210]
    assert {run.training.global_batch_size for run in runs} == {4608}
    assert {run.data.packing for run in runs} == {"none"}
    assert {run.model.attention_output_dropout for run in runs} == {0.1}
    assert {run.checkpoint.save_interval_tokens for run in runs[:3]} == {8_500_000_000}


@pytest.mark.parametrize("size", SIZES)
def test_encoder_and_decoder_differ_only_in_the_local_rope_base(size: str) -> None:
    for phase in PHASES:
        encoder, decoder = (resolve(size, phase, objective) for objective in ("mlm", "clm"))
        same: dict[str, Any] = {"objective": "mlm", "rope_local_base": encoder.model.rope_local_base}
        assert decoder.with_values(same) == encoder


@pytest.mark.parametrize("size", SIZES)
def test_plan_counts_parameters_checkpoints_and_steps(size: str) -> None:
    plans = [planned(size, phase) for phase in ("pretrain", "extend", "decay")]
    assert {plan.parameters.total for plan in plans} == {PARAMETERS[size]}
    assert sum(plan.checkpoints for plan in plans) == (79 if size == "1b" else 236)
    if size != "1b":
        # The authors' last checkpoint of the first phase is step 599,525.
        assert plans[0].steps == pytest.approx(599_525, rel=1e-3)


def test_plan_has_learning_rate_and_mask_ratio_over_the_run() -> None:
    path = {moment.tokens: moment for moment in planned("17m", "decay").path}
    assert path[0].learning_rate == pytest.approx(1.5e-3)
    assert path[12_500_000_000].learning_rate == pytest.approx((1.5e-3 + 6e-5) / 2)
    assert path[50 * B].learning_rate == pytest.approx(6e-5)
    assert {moment.mask_ratio for moment in path.values()} == {0.15}
    assert {moment.mask_ratio for moment in planned("17m", "decay", "clm").path} == {None}


def test_preset_values_can_be_overridden() -> None:
    run = resolve(
        "17m", "extend", "mlm", "--packing", "best-fit", "--lr", "1e-3", "--min-lr", "0", "--optimizer", "adamw"
    )
    assert (run.data.packing, run.data.real_tokens_per_row) == ("best-fit", 0.0)
    assert (run.optimizer.lr, run.optimizer.min_lr, run.optimizer.optimizer) == (1e-3, 0.0, "adamw")
    assert run.data.seq_length == 7999


def test_chunk_sizes_are_published_ones_at_their_own_length_only() -> None:
    for phase in ("pretrain", "extend", "decay", "cross"):
        values = preset_values("ettin-17m", "mlm", phase)
        check_data(RunConfig().with_values({**values, "objective": "mlm"}))
        assert (values["chunk_min_size"], values["chunk_skip_size"]) == (512, 128)
    shorter = parse_command(["--preset", "ettin-17m", "--objective", "mlm", "--seq-length", "256"]).config
    assert shorter.data.chunk_min_size == 0
    check_data(shorter)
