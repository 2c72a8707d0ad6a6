"""Whole launches on a small corpus: train, stop, go on, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ettin.checkpoint.folder.layout import (
    RUN_FILE,
    SET_ASIDE_FOLDER,
    TOKENIZER_FOLDER,
    list_steps,
    read_run_json,
    resolve_checkpoint,
)
from megatron_ettin.config.checks import check_run
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import babble
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import Material, assert_same_weights, launch, metrics, prepare, settings, write_material
from tests.helpers.runs import TINY

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.mark.parametrize(("objective", "world_size", "layout"), [("mlm", 2, {}), ("clm", 2, PP2)])
def test_stopped_and_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, material: Material, objective: str, world_size: int, layout: dict[str, Any]
) -> None:
    """To the bit: every line of metrics.jsonl, validation included, and the weights."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_ranks(world_size, launch, settings(material, objective, save=str(whole), **layout))
    first = settings(material, objective, save=str(parts), exit_interval=3, **layout)
    out = run_ranks(world_size, launch, first)
    assert "stopped" in out[0]
    assert out[1] == ""
    assert [line["step"] for line in metrics(parts)] == [1, 2, 3]
    assert list_steps(parts) == [3]
    run_ranks(world_size, launch, settings(material, objective, save=str(parts), load=str(parts), **layout))
    assert metrics(parts) == metrics(whole)
    assert list_steps(parts) == [3, 4, 8]
    assert_same_weights(whole, parts)
    described = [read_run_json(resolve_checkpoint(save)) for save in (whole, parts)]
    for key in ("step", "consumed_samples", "consumed_tokens", "lineage", "validation_loss"):
        assert described[0][key] == described[1][key]


def test_metrics_and_screen_tell_what_the_run_did(tmp_path: Path, material: Material) -> None:
    out = run_ranks(1, launch, settings(material, "clm", save=str(tmp_path)))[0]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["learning_rate"] for line in lines[:3]] == pytest.approx([1.5e-3, 3e-3, 3e-3])
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6, 8]
    assert all(line["perplexity"] == pytest.approx(np.exp(line["loss"])) for line in lines)
    tokens = [line["tokens"] for line in lines]
    assert tokens == sorted(tokens)
    assert out.count("\nstep ") + out.startswith("step ") == 8
    assert f"saved {tmp_path}/step_0000004" in out
    assert "trained" in out
    assert list((tmp_path / "tensorboard").iterdir())


def test_validation_leaves_training_alone(tmp_path: Path, material: Material) -> None:
    with_it, without = tmp_path / "with", tmp_path / "without"
    run_ranks(2, launch, settings(material, save=str(with_it), eval_interval=1))
    run_ranks(2, launch, settings(material, save=str(without), eval_interval=0))
    assert [line["loss"] for line in metrics(with_it)] == [line["loss"] for line in metrics(without)]
    assert not any("validation_loss" in line for line in metrics(without))
    assert_same_weights(with_it, without)


def test_checkpoint_carries_the_tokenizer_even_when_its_folder_is_gone(tmp_path: Path, material: Material) -> None:
    run = settings(material, save=str(tmp_path), train_iters=1, lr_warmup_iters=0)
    run_ranks(1, launch, run)
    copy = resolve_checkpoint(tmp_path) / TOKENIZER_FOLDER / "tokenizer.json"
    assert copy.read_bytes() == (Path(material.tokenizer_model) / "tokenizer.json").read_bytes()


@pytest.fixture(scope="module", params=["mlm", "clm"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, material: Material) -> Path:
    save = tmp_path_factory.mktemp(f"trained-{request.param}")
    run_ranks(2, launch, settings(material, request.param, save=str(save), **TP2))
    return save


def evaluate(trained: Path, material: Material, world_size: int, **overrides: Any) -> dict[str, Any]:
    """Return the last line of standard output as the object it is; no other rank may write."""
    objective = read_run_json(resolve_checkpoint(trained))["objective"]
    run = settings(material, objective, load=str(trained), eval_only=True, **overrides)
    first, *others = run_ranks(world_size, launch, run)
    assert all(out == "" for out in others)
    report = json.loads(first.splitlines()[-1])
    assert isinstance(report, dict)
    return report


def test_evaluation_does_not_depend_on_batches_or_layout(trained: Path, material: Material) -> None:
    expected = evaluate(trained, material, 1)
    assert expected["validation_loss"] == pytest.approx(metrics(trained)[-1]["validation_loss"], rel=1e-6)
    others = [
        evaluate(trained, material, 1, micro_batch_size=1),
        evaluate(trained, material, 1, micro_batch_size=64, global_batch_size=64),
        evaluate(trained, material, 2, micro_batch_size=1),
        evaluate(trained, material, 2, sequence_parallel=True, **TP2),
        evaluate(trained, material, 4, **TP2, **PP2),
    ]
    for found in others:
        assert found["scored_tokens"] == expected["scored_tokens"]
        assert found["tokens"] == expected["tokens"]
        assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-6)


def test_evaluation_scores_the_whole_split_once(trained: Path, material: Material) -> None:
    """Against counting: a chunk of n content tokens is scored at n tokens by a decoder that sees it whole."""
    documents = babble(120, TINY.vocab_size)
    found = evaluate(trained, material, 1, split="0,100,0", seq_length=512)
    content = sum(len(document) for document in documents)
    if read_run_json(resolve_checkpoint(trained))["objective"] == "clm":
        # [CLS] predicts the first token and the last token predicts [SEP].
        assert found["scored_tokens"] == content + len(documents)
    else:
        assert found["scored_tokens"] == pytest.approx(0.15 * content, rel=0.1)
    assert found["tokens"] == content + 2 * len(documents)


def test_evaluation_writes_nothing_into_the_checkpoint(trained: Path, material: Material) -> None:
    before = sorted(path.relative_to(trained) for path in trained.rglob("*"))
    evaluate(trained, material, 1)
    assert sorted(path.relative_to(trained) for path in trained.rglob("*")) == before


def test_a_complete_run_is_left_as_it_is(tmp_path: Path, material: Material) -> None:
    run_ranks(1, launch, settings(material, save=str(tmp_path), train_iters=2))
    before = (resolve_checkpoint(tmp_path) / RUN_FILE).read_text()
    out = run_ranks(1, launch, settings(material, save=str(tmp_path), load=str(tmp_path), train_iters=2))[0]
    assert "trained" in out
    assert "step 3" not in out
    assert (resolve_checkpoint(tmp_path) / RUN_FILE).read_text() == before
    assert len(metrics(tmp_path)) == 2


def test_going_on_from_an_earlier_step_sets_the_later_ones_aside(tmp_path: Path, material: Material) -> None:
    run_ranks(1, launch, settings(material, save=str(tmp_path)))
    expected = metrics(tmp_path)
    again = settings(material, save=str(tmp_path), load=str(tmp_path), load_step=4, exit_interval=1)
    out = run_ranks(1, launch, again)[0]
    assert f"{SET_ASIDE_FOLDER}/step_0000008" in out
    assert list_steps(tmp_path) == [4, 5]
    assert resolve_checkpoint(tmp_path).name == "step_0000005"
    assert metrics(tmp_path) == expected[:5]


def refusal(config: RunConfig) -> str:
    """Ask for a launch that must be refused before torch or megatron-core are looked at."""
    from megatron_ettin.train.preflight.history import check_history

    with pytest.raises(ConfigError) as caught:
        check_history(prepare(config))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_histories_are_not_mixed(trained: Path, tmp_path: Path, material: Material) -> None:
    objective = read_run_json(resolve_checkpoint(trained))["objective"]
    message = refusal(settings(material, objective, save=str(trained)))
    assert message.startswith(f"--save {trained}:")
    assert f"--load {trained}" in message
    other = tmp_path / "other"
    run_ranks(1, launch, settings(material, objective, save=str(other), train_iters=1, lr_warmup_iters=0))
    message = refusal(settings(material, objective, save=str(other), load=str(trained)))
    assert message.startswith(f"--save {other}:")
    message = refusal(settings(material, objective, save=str(trained), load=str(trained), seed=22, seq_length=32))
    assert message.startswith(f"--load {trained}")
    assert (
        "the order of its data has changed: --seq-length 32 (was 64), --seed 22 (was 21); --accept-data-change"
        in message
    )


def test_a_branch_goes_to_a_folder_of_its_own(trained: Path, tmp_path: Path, material: Material) -> None:
    """Taken up from another SAVE, the run goes on with its counters and leaves that SAVE alone."""
    objective = read_run_json(resolve_checkpoint(trained))["objective"]
    branch = settings(material, objective, save=str(tmp_path), load=str(trained), load_step=4, **TP2)
    run_ranks(2, launch, branch)
    assert list_steps(trained) == [4, 8]
    assert list_steps(tmp_path) == [8]
    assert metrics(tmp_path) == metrics(trained)[4:]
    assert_same_weights(trained, tmp_path)


def test_an_error_in_the_loop_leaves_a_process_that_can_launch_again(tmp_path: Path, material: Material) -> None:
    """The groups, the lock and the feed's thread are given back."""
    assert run_ranks(1, fail_then_launch, settings(material, save=str(tmp_path), train_iters=2)) == [[1, 2]]


def fail_then_launch(config: RunConfig) -> list[int]:
    """Launch twice in one process; the first launch fails at its second step."""
    import threading
    from unittest.mock import patch

    from megatron_ettin.train import loop

    made_steps: list[Any] = []

    def break_at_second(*arguments: Any) -> Any:
        if made_steps:
            raise ZeroDivisionError
        made_steps.append(one_step(*arguments))
        return made_steps[0]

    one_step = loop.train_step
    with patch.object(loop, "train_step", break_at_second), pytest.raises(ZeroDivisionError):
        launch(config)
    assert not torch.distributed.is_initialized()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    launch(config)
    return [line["step"] for line in metrics(Path(config.checkpoint.save))]


def test_a_trace_of_chosen_steps_is_written(tmp_path: Path, material: Material) -> None:
    save = tmp_path / "run"
    run_ranks(1, launch, settings(material, save=str(save), train_iters=4, eval_interval=0, profile_steps="2:3"))
    [trace] = (save / "profile").iterdir()
    assert trace.name == "steps_2_3_rank_0.json"
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"] if "name" in event]
    assert names.count("Optimizer.step#FusedAdamW.step") == 2, "one for each step"
    later = settings(material, save=str(save), load=str(save), train_iters=5, profile_steps="2:4")
    out = run_ranks(1, launch, later)[0]
    assert "--profile-steps 2:4: no trace, as this launch starts with step 5\n" in out
    with pytest.raises(ConfigError, match="--profile-steps 9: starts after the last step, --train-iters 8"):
        check_run(settings(material, save=str(save), profile_steps="9"), 1)
