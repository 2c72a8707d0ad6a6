"""Launches that are asked to stop, and skipped steps: in-process, on one and two ranks."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from megatron_ettin.checkpoint.folder.layout import list_steps, read_run_json, resolve_checkpoint
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import RunFailure
from megatron_ettin.train.stop import REASONS, STOP_FILE, reason_of
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import assert_same_weights, launch, metrics, prepare
from tests.helpers.runs import TINY, tiny_run

PP2 = {"pipeline_model_parallel_size": 2}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("material")
    tokenizer = write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(TINY.vocab_size - 5)])
    documents = [document.tolist() for document in babble(120, TINY.vocab_size)]
    return {"data_path": write_corpus(folder / "corpus", documents), "tokenizer_model": str(tokenizer)}


def settings(material: dict[str, str], save: Path, **overrides: Any) -> RunConfig:
    small: dict[str, Any] = {"micro_batch_size": 2, "global_batch_size": 4, "log_interval": 1, "split": "80,20,0"}
    small |= {"train_iters": 8, "eval_interval": 3, "save_interval": 4, "attention_output_dropout": 0.1}
    return tiny_run("mlm", **(small | material | {"save": str(save)} | overrides))


def stop_record(save: Path) -> dict[str, Any] | None:
    path = save / STOP_FILE
    return json.loads(path.read_text()) if path.exists() else None


MOMENTS = {
    "building": ("megatron_ettin.train.launch.restore", 1),
    "third step": ("megatron_ettin.train.loop.train_step", 3),
    "evaluation": ("megatron_ettin.train.trainer.validate_sources", 1),
    "save": ("megatron_ettin.checkpoint.manager.CheckpointManager.save", 1),
}
"""Moment -> a function, and at which of its calls."""


def launch_signalled(config: RunConfig, rank: int, moment: str, number: signal.Signals) -> str:
    """Launch on this rank; at the given moment, only the process of ``rank`` gets the signal."""
    target, call = MOMENTS[moment]
    calls: list[None] = []
    real = _resolve(target)

    def signalled(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) == call and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), number)
        return real(*arguments, **named)

    with patch(target, signalled):
        return launch(config)


def _resolve(target: str) -> Any:
    import pkgutil

    return pkgutil.resolve_name(target)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, material: dict[str, str]) -> Path:
    """The uninterrupted run."""
    save = tmp_path_factory.mktemp("uninterrupted")
    run_ranks(2, launch, settings(material, save))
    return save


@pytest.mark.parametrize(
    ("moment", "number", "stops_at"),
    [
        ("building", signal.SIGTERM, 0),
        ("third step", signal.SIGUSR1, 3),
        # After the third and fourth step: the current action is finished, and the next step shares the votes.
        ("evaluation", signal.SIGINT, 4),
        ("save", signal.SIGTERM, 5),
    ],
)
def test_signal_to_one_rank_stops_all_and_resume_is_bit_equal(
    tmp_path: Path, material: dict[str, str], uninterrupted: Path, moment: str, number: signal.Signals, stops_at: int
) -> None:
    out = run_ranks(2, launch_signalled, settings(material, tmp_path), 1, moment, number)
    assert "stopped by" in out[0]
    assert number.name in out[0]
    record = stop_record(tmp_path)
    tokens = metrics(tmp_path)[-1]["tokens"] if stops_at else 0
    assert record == {"reason": number.name, "step": stops_at, "tokens": tokens}
    assert list_steps(tmp_path)[-1:] == [stops_at] * bool(stops_at)
    run_ranks(2, launch, settings(material, tmp_path, load=str(tmp_path) if stops_at else ""))
    assert stop_record(tmp_path) is None
    assert metrics(tmp_path) == metrics(uninterrupted)
    assert_same_weights(tmp_path, uninterrupted)


def test_signal_at_the_last_step_is_a_normal_end(tmp_path: Path, material: dict[str, str]) -> None:
    run_ranks(1, launch_signalled, settings(material, tmp_path, train_iters=3), 0, "third step", signal.SIGTERM)
    assert stop_record(tmp_path) is None
    assert list_steps(tmp_path) == [3]


def launch_past_its_time_limit(config: RunConfig) -> str:
    """Launch; on rank 1 only, the clock advances an hour with the second step."""
    from megatron_ettin.train import loop, stop

    calls: list[None] = []
    real_step, real_time = loop.train_step, stop.time.monotonic

    def step(*arguments: Any) -> Any:
        calls.append(None)
        return real_step(*arguments)

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return real_time() + 3600 * (len(calls) >= 2 and os.environ["RANK"] == "1")

    with patch.object(loop, "train_step", step), patch.object(stop, "time", Clock):
        return launch(config)


def test_a_launch_stops_after_its_time_limit(tmp_path: Path, material: dict[str, str]) -> None:
    run_ranks(2, launch_past_its_time_limit, settings(material, tmp_path, exit_after_minutes=30.0, **PP2))
    record = stop_record(tmp_path)
    assert record is not None
    assert (record["reason"], record["step"]) == ("exit-after-minutes", 2)
    assert list_steps(tmp_path) == [2]


def test_the_first_reason_is_reported() -> None:
    assert reason_of([False] * len(REASONS)) == ""
    assert reason_of([False, True, False, True]) == "SIGINT"


def launch_broken(config: RunConfig, from_step: int, to_step: int) -> tuple[str, str]:
    """Launch with non-finite gradients on rank 0 in some steps; return the output and the failure."""
    from megatron_ettin.train import loop

    calls: list[None] = []
    real = loop.train_step

    def step(training: Any, *arguments: Any) -> Any:
        calls.append(None)
        hooks = []
        if from_step <= len(calls) <= to_step and training.ranks.rank == 0:
            weight = training.model.get_parameter("transformer.layers.0.mlp.linear_fc1.weight")
            hooks.append(weight.register_hook(lambda slope: slope * math.nan))
        result = real(training, *arguments)
        for hook in hooks:
            hook.remove()
        return result

    import contextlib
    import io

    from megatron_ettin.train.run import run

    out = io.StringIO()
    with patch.object(loop, "train_step", step), contextlib.redirect_stdout(out):
        try:
            run(prepare(config, int(os.environ["WORLD_SIZE"])))
        except RunFailure as failure:
            return out.getvalue(), str(failure)
    return out.getvalue(), ""


def test_a_few_skipped_steps_are_reported(tmp_path: Path, material: dict[str, str]) -> None:
    (out, failure), (silent, _) = run_ranks(2, launch_broken, settings(material, tmp_path, max_skipped_steps=2), 3, 4)
    assert (failure, silent) == ("", "")
    place = "rank 0: the gradient of transformer.layers.0.mlp.linear_fc1.weight is not finite"
    assert f"step 3 was skipped: activations are finite; {place}, rows 8-11\n" in out
    assert f"{place}, rows 12-15\n" in out
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if line.get("skipped")] == [3, 4]
    assert [line["step"] for line in lines if line["gradient_norm"] is None] == [3, 4]
    # Skipped steps count as steps, rows and tokens, and in the schedule.
    run_json = read_run_json(resolve_checkpoint(tmp_path))
    assert (run_json["step"], run_json["consumed_samples"], run_json["skipped_steps"]) == (8, 32, 2)
    assert run_json["skipped_in_a_row"] == 0


def test_too_many_skipped_steps_end_the_run_on_all_ranks(tmp_path: Path, material: dict[str, str]) -> None:
    run = settings(material, tmp_path, max_skipped_steps=1, save_interval=2, train_iters=20)
    (out, failure), (_, other) = run_ranks(2, launch_broken, run, 3, 20)
    assert failure == other
    assert failure.startswith("step 4: steps skipped in a row: 2, allowed are --max-skipped-steps 1;")
    assert "step 4 was skipped" in out
    assert list_steps(tmp_path) == [2]
    assert stop_record(tmp_path) is None
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_resumed_run_skips_the_same_spikes(tmp_path: Path, material: dict[str, str]) -> None:
    """A small factor makes ordinary noise a spike; the window spans the stop."""
    uninterrupted, parts = tmp_path / "uninterrupted", tmp_path / "parts"
    spikes: dict[str, Any] = {"train_iters": 84, "eval_interval": 0, "save_interval": 0, "skip_loss_spikes": 0.2}
    spikes |= {"lr": 1e-4, "max_skipped_steps": 84}
    run_ranks(1, launch, settings(material, uninterrupted, **spikes))
    run_ranks(1, launch, settings(material, parts, exit_interval=70, **spikes))
    run_ranks(1, launch, settings(material, parts, load=str(parts), **spikes))
    skipped = [line["step"] for line in metrics(uninterrupted) if line.get("skipped")]
    assert min(skipped) > 64
    assert max(skipped) > 70
    assert metrics(parts) == metrics(uninterrupted)
    assert_same_weights(parts, uninterrupted)
    assert read_run_json(resolve_checkpoint(parts))["skipped_steps"] == len(skipped)
