"""The configs of the paper's 24 models in examples/configs/ettin."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.presets import SIZES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.planning.plan import Plan, build_plan
from megatron_ettin.train.preflight.prepare import prepare_run

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "configs" / "ettin"
OBJECTIVES = {"encoder": "mlm", "decoder": "clm", "encoder_from_decoder": "mlm", "decoder_from_encoder": "clm"}
RUNS = [(size, kind) for size in SIZES for kind in OBJECTIVES]


def plan(size: str, kind: str, *flags: str) -> Plan:
    command = parse_command(["--config", str(FOLDER / f"{size}_{kind}.yaml"), *flags, "--dry-run"])
    return build_plan(prepare_run(command, world_size=4).config, world_size=4)


def test_there_are_24_configs() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{size}_{kind}.yaml" for size, kind in RUNS}
    assert len(RUNS) == 24


@pytest.mark.parametrize(("size", "kind"), RUNS)
def test_config_plans_its_run(size: str, kind: str) -> None:
    planned = plan(size, kind, "--micro-batch-size", "24")
    config: RunConfig = planned.config
    assert config.training.objective == OBJECTIVES[kind]
    assert config.training.phase == ("cross" if "from" in kind else "pretrain")
    assert config.training.bf16
    assert planned.steps > 5000
    assert planned.memory[0].total > 0


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("size", SIZES)
def test_phase_can_be_given_as_a_flag(size: str, kind: str) -> None:
    plans = [plan(size, kind, "--phase", phase) for phase in ("pretrain", "extend", "decay")]
    assert sum(planned.checkpoints for planned in plans) == (79 if size == "1b" else 236)


@pytest.mark.parametrize(("size", "kind"), RUNS)
def test_config_sets_nothing_that_its_preset_sets(size: str, kind: str) -> None:
    settings = yaml.safe_load((FOLDER / f"{size}_{kind}.yaml").read_text())
    assert set(settings) <= {"preset", "objective", "phase", "bf16"}
    assert settings["preset"] == f"ettin-{size}"
