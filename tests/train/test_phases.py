"""Chained phases, crossed objectives and schedules in tokens: complete launches on a small corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.checkpoint.folder.layout import list_steps, read_run_json, resolve_checkpoint
from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.train.preflight.checkpoint import ResumeMode
from megatron_ettin.train.preflight.prepare import PreparedRun, prepare_run
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import assert_same_weights, launch, metrics, prepare
from tests.helpers.runs import TINY, tiny_run

DP2: dict[str, Any] = {"use_distributed_optimizer": True}
IN_TOKENS: dict[str, Any] = {
    "train_iters": 0,
    "train_tokens": 4000,
    "eval_interval": 0,
    "eval_interval_tokens": 1500,
    "save_interval_tokens": 1200,
    "lr_warmup_tokens": 800,
    "lr_wsd_decay_tokens": 1500,
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("material")
    tokenizer = write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(TINY.vocab_size - 5)])
    documents = [document.tolist() for document in babble(120, TINY.vocab_size)]
    return {"data_path": write_corpus(folder / "corpus", documents), "tokenizer_model": str(tokenizer)}


def settings(material: dict[str, str], objective: str = "mlm", **overrides: Any) -> RunConfig:
    small: dict[str, Any] = {"micro_batch_size": 2, "global_batch_size": 4, "log_interval": 1, "split": "80,20,0"}
    small |= {"train_iters": 4, "eval_interval": 0, "attention_output_dropout": 0.1}
    return tiny_run(objective, **(small | material | overrides))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, material: dict[str, str]) -> Path:
    save = tmp_path_factory.mktemp("pretrained")
    run_ranks(2, launch, settings(material, save=str(save)))
    return save


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, material: dict[str, str]) -> Path:
    save = tmp_path_factory.mktemp("trained")
    run_ranks(1, launch, settings(material, save=str(save), train_iters=1, phase="extend"))
    return save


class TestTokenTime:
    """Runs whose schedule counts tokens."""

    @pytest.mark.parametrize("packing", ["best-fit", "none"])
    def test_resume_is_bit_equal(self, tmp_path: Path, material: dict[str, str], packing: str) -> None:
        uninterrupted, parts = tmp_path / "uninterrupted", tmp_path / "parts"
        run_ranks(2, launch, settings(material, save=str(uninterrupted), packing=packing, **IN_TOKENS))
        run_ranks(2, launch, settings(material, save=str(parts), packing=packing, exit_interval=5, **IN_TOKENS))
        resumed = settings(material, save=str(parts), load=str(parts), packing=packing, **IN_TOKENS)
        run_ranks(2, launch, resumed)
        assert metrics(parts) == metrics(uninterrupted)
        assert set(list_steps(parts)) == {*list_steps(uninterrupted), 5}
        assert_same_weights(uninterrupted, parts)
        # A complete run is not changed.
        run_ranks(2, launch, resumed)
        assert metrics(parts) == metrics(uninterrupted)

    def test_intervals_end_with_the_step_that_reaches_their_tokens(
        self, tmp_path: Path, material: dict[str, str]
    ) -> None:
        output = run_ranks(1, launch, settings(material, "clm", save=str(tmp_path), **IN_TOKENS))[0]
        lines = metrics(tmp_path)
        tokens = [line["tokens"] for line in lines]
        assert tokens[-2] < 4000 <= tokens[-1]
        saved = [next(i for i, t in enumerate(tokens, 1) if t >= mark) for mark in (1200, 2400, 3600, 4000)]
        assert list_steps(tmp_path) == sorted(set(saved))
        evaluated = [next(i for i, t in enumerate(tokens, 1) if t >= mark) for mark in (1500, 3000, 4000)]
        assert [line["step"] for line in lines if "validation_loss" in line] == sorted(set(evaluated))
        for line, before in zip(lines, [0, *tokens], strict=False):
            left = (4000 - before) / 1500
            assert line["learning_rate"] == pytest.approx(3e-3 * min(before / 800, 1, left))
        assert "% of 4K tokens | " in output

    def test_steps_do_not_depend_on_the_layout(self, tmp_path: Path, material: dict[str, str]) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        constant: dict[str, Any] = {"attention_output_dropout": 0.0, "micro_batch_size": 1, **IN_TOKENS}
        run_ranks(1, launch, settings(material, save=str(one), **constant))
        run_ranks(2, launch, settings(material, save=str(two), **constant))
        steps = [[(line["step"], line["tokens"]) for line in metrics(save)] for save in (one, two)]
        assert steps[0] == steps[1]


@dataclass(frozen=True)
class Restored:
    """State of a launch before its first step."""

    weights: dict[str, np.ndarray]
    optimizer_steps: int
    moments: float
    counters: tuple[int, int, int]


def restore_only(config: RunConfig) -> Restored:
    """Restore as a launch does before its first step."""
    import torch

    from megatron_ettin.optim.core_state import optimizer_steps
    from megatron_ettin.train.resume import restore
    from tests.helpers.training import start_training

    training = start_training(config)
    state = restore(training, prepare(config).resume).state
    inner = training.optimizer.chained_optimizers[0].optimizer
    moments = sum(float(kept["exp_avg"].double().abs().sum()) for kept in inner.state.values())
    with torch.no_grad():
        weights = {
            name: value.numpy().copy() for name, value in training.model.state_dict().items() if value is not None
        }
    return Restored(
        weights,
        optimizer_steps(training.optimizer),
        moments,
        (state.step, state.consumed_samples, state.consumed_tokens),
    )


class TestPhases:
    """Transitions from one phase to the next."""

    def test_next_phase_keeps_the_optimizer_and_cross_drops_it(
        self, pretrained: Path, material: dict[str, str]
    ) -> None:
        restored = {
            phase: run_ranks(1, restore_only, settings(material, save="x", load=str(pretrained), phase=phase))[0]
            for phase in ("pretrain", "extend", "cross")
        }
        resumed, extended, crossed = restored["pretrain"], restored["extend"], restored["cross"]
        assert resumed.counters[0] == resumed.optimizer_steps == extended.optimizer_steps == 4
        assert extended.moments == resumed.moments > 0
        assert (crossed.optimizer_steps, crossed.moments) == (0, 0.0)
        assert extended.counters == crossed.counters == (0, 0, 0)
        for name, value in resumed.weights.items():
            np.testing.assert_array_equal(extended.weights[name], value)
            np.testing.assert_array_equal(crossed.weights[name], value)

    def test_three_phases_and_two_crossings(self, tmp_path: Path, pretrained: Path, material: dict[str, str]) -> None:
        """Sequence length, RoPE bases and schedule change; the lineage lists all phases; rates are continuous."""
        changes: dict[str, Any] = {
            "seq_length": 128,
            "rope_global_base": 500.0,
            "rope_local_base": 300.0,
            "lr_decay_style": "1-sqrt",
        }
        extend: dict[str, Any] = {
            "phase": "extend",
            "min_lr": 1.5e-3,
            "train_iters": 0,
            "train_tokens": 3000,
            **changes,
        }
        run_ranks(2, launch, settings(material, save=str(tmp_path / "e"), load=str(pretrained), **extend, **DP2))
        decay = extend | {"phase": "decay", "lr": 1.5e-3, "min_lr": 6e-5, "mlm_probability": 0.15}
        run_ranks(1, launch, settings(material, save=str(tmp_path / "d"), load=str(tmp_path / "e"), **decay))
        cross: dict[str, Any] = decay | {"phase": "cross", "lr_decay_style": "WSD"}
        crossed = settings(material, "clm", save=str(tmp_path / "c"), load=str(tmp_path / "d"), **cross)
        output = run_ranks(1, launch, crossed)[0]
        assert f"--objective clm --phase cross starts from {tmp_path}/d/step_" in output
        back = settings(material, "mlm", save=str(tmp_path / "b"), load=str(tmp_path / "c"), **cross)
        run_ranks(1, launch, back)
        rates = {name: [line["learning_rate"] for line in metrics(tmp_path / name)] for name in "ed"}
        assert (rates["e"][0], rates["d"][0]) == pytest.approx((3e-3, 1.5e-3))
        # The last step starts before the end of the phase.
        assert 1.5e-3 < rates["e"][-1] < 1.8e-3
        assert metrics(tmp_path / "e")[0]["step"] == 1
        lineage = read_run_json(resolve_checkpoint(tmp_path / "b"))["lineage"]
        trained = [(entry["objective"], entry["phase"]) for entry in lineage]
        phases = ["pretrain", "extend", "decay", "cross", "cross"]
        assert trained == list(zip(["mlm", "mlm", "mlm", "clm", "mlm"], phases, strict=True))
        parents = [str(resolve_checkpoint(save)) for save in (pretrained, *(tmp_path / name for name in "edc"))]
        assert [entry["parent"] for entry in lineage] == ["", *parents]
        for entry, name in zip(lineage[1:], "edcb", strict=True):
            run_json = read_run_json(resolve_checkpoint(tmp_path / name))
            assert (entry["steps"], entry["tokens"]) == (run_json["step"], run_json["consumed_tokens"])
            assert entry["tokens"] >= 3000
        # A started phase is resumed.
        again = settings(material, "mlm", save=str(tmp_path / "b"), load=str(tmp_path / "b"), **cross)
        plan = prepare(again).resume
        assert plan is not None
        assert plan.mode is ResumeMode.RESUME

    def test_resume_within_a_phase_is_bit_equal(
        self, tmp_path: Path, pretrained: Path, material: dict[str, str]
    ) -> None:
        extend: dict[str, Any] = {"phase": "extend", "seq_length": 128, "train_iters": 5}
        run_ranks(2, launch, settings(material, save=str(tmp_path / "a"), load=str(pretrained), **extend))
        stopped = settings(material, save=str(tmp_path / "b"), load=str(pretrained), exit_interval=2, **extend)
        run_ranks(2, launch, stopped)
        run_ranks(2, launch, settings(material, save=str(tmp_path / "b"), load=str(tmp_path / "b"), **extend))
        assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
        assert_same_weights(tmp_path / "a", tmp_path / "b")

    def test_mntp_continues_from_a_decoder(self, tmp_path: Path, material: dict[str, str]) -> None:
        decoder = settings(material, "clm", save=str(tmp_path / "decoder"))
        run_ranks(1, launch, decoder)
        load = str(tmp_path / "decoder")
        run = settings(material, "mntp", save=str(tmp_path / "m"), load=load, phase="cross", train_iters=30)
        run_ranks(1, launch, run)
        assert read_run_json(resolve_checkpoint(tmp_path / "m"))["objective"] == "mntp"
        lines = metrics(tmp_path / "m")
        assert "masked_accuracy" in lines[0]
        assert np.mean([line["loss"] for line in lines[-5:]]) < np.mean([line["loss"] for line in lines[:5]]) - 0.1


class TestRefusals:
    """Refusals before torch is loaded."""

    def prepare(self, material: dict[str, str], trained: Path, *more: str) -> PreparedRun:
        files = ["--data-path", material["data_path"], "--load", str(trained), "--split", "80,20,0"]
        return prepare_run(parse_command([*files, *more]), world_size=1)

    def test_phase_and_objective_come_from_the_checkpoint(self, material: dict[str, str], trained: Path) -> None:
        run = self.prepare(material, trained, "--save", str(trained), "--train-iters", "5").config
        assert (run.training.phase, run.training.objective) == ("extend", "mlm")

    def test_another_objective_without_cross(self, material: dict[str, str], trained: Path) -> None:
        flags = ["--save", "x", "--train-iters", "5", "--objective", "clm"]
        with pytest.raises(ConfigError, match="was trained with --objective mlm; --phase cross trains its weights"):
            self.prepare(material, trained, *flags)
        run = self.prepare(material, trained, *flags, "--phase", "cross").config
        assert (run.training.phase, run.training.objective) == ("cross", "clm")

    def test_an_evaluation_may_use_any_objective(self, material: dict[str, str], trained: Path) -> None:
        run = self.prepare(material, trained, "--eval-only", "--objective", "clm").config
        assert run.training.objective == "clm"

    def test_a_phase_needs_its_own_folder(self, material: dict[str, str], trained: Path) -> None:
        from megatron_ettin.train.preflight.history import check_history

        prepared = self.prepare(material, trained, "--save", str(trained), "--train-iters", "5", "--phase", "decay")
        with pytest.raises(
            ConfigError, match=r"--phase extend, which --load .* ends; save --objective mlm --phase decay"
        ):
            check_history(prepared)

    def test_a_preset_follows_the_phase_of_the_checkpoint(self, material: dict[str, str], trained: Path) -> None:
        with pytest.raises(ConfigError, match=r"--num-layers 7 \(from --preset ettin-17m\)"):
            self.prepare(material, trained, "--save", str(trained), "--preset", "ettin-17m")
