"""Complete launches on a small corpus: train, stop, resume, evaluate."""

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
def test_resume_is_bit_equal(
    tmp_path: Path, material: Material, objective: str, world_size: int, layout: dict[str, Any]
) -> None:
    """Every record, with validation, and the weights."""
    uninterrupted, parts = tmp_path / "uninterrupted", tmp_path / "parts"
    run_ranks(world_size, launch, settings(material, objective, save=str(uninterrupted), **layout))
    first = settings(material, objective, save=str(parts), exit_interval=3, **layout)
    output = run_ranks(world_size, launch, first)
    assert "stopped" in output[0]
    assert output[1] == ""
    assert [line["step"] for line in metrics(parts)] == [1, 2, 3]
    assert list_steps(parts) == [3]
    run_ranks(world_size, launch, settings(material, objective, save=str(parts), load=str(parts), **layout))
    assert metrics(parts) == metrics(uninterrupted)
    assert list_steps(parts) == [3, 4, 8]
    assert_same_weights(uninterrupted, parts)
    run_jsons = [read_run_json(resolve_checkpoint(save)) for save in (uninterrupted, parts)]
    for key in ("step", "consumed_samples", "consumed_tokens", "lineage", "validation_loss"):
        assert run_jsons[0][key] == run_jsons[1][key]


def test_metrics_and_console_report_the_run(tmp_path: Path, material: Material) -> None:
    output = run_ranks(1, launch, settings(material, "clm", save=str(tmp_path)))[0]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["learning_rate"] for line in lines[:3]] == pytest.approx([1.5e-3, 3e-3, 3e-3])
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6, 8]
    assert all(line["perplexity"] == pytest.approx(np.exp(line["loss"])) for line in lines)
    tokens = [line["tokens"] for line in lines]
    assert tokens == sorted(tokens)
    assert output.count("\nstep ") + output.startswith("step ") == 8
    assert f"saved {tmp_path}/step_0000004" in output
    assert "trained" in output
    assert list((tmp_path / "tensorboard").iterdir())


def test_validation_does_not_change_training(tmp_path: Path, material: Material) -> None:
    with_it, without = tmp_path / "with", tmp_path / "without"
    run_ranks(2, launch, settings(material, save=str(with_it), eval_interval=1))
    run_ranks(2, launch, settings(material, save=str(without), eval_interval=0))
    assert [line["loss"] for line in metrics(with_it)] == [line["loss"] for line in metrics(without)]
    assert not any("validation_loss" in line for line in metrics(without))
    assert_same_weights(with_it, without)


def test_checkpoint_contains_the_tokenizer(tmp_path: Path, material: Material) -> None:
    config = settings(material, save=str(tmp_path), train_iters=1, lr_warmup_iters=0)
    run_ranks(1, launch, config)
    copy = resolve_checkpoint(tmp_path) / TOKENIZER_FOLDER / "tokenizer.json"
    assert copy.read_bytes() == (Path(material.tokenizer_model) / "tokenizer.json").read_bytes()


@pytest.fixture(scope="module", params=["mlm", "clm"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, material: Material) -> Path:
    save = tmp_path_factory.mktemp(f"trained-{request.param}")
    run_ranks(2, launch, settings(material, request.param, save=str(save), **TP2))
    return save


def evaluate(trained: Path, material: Material, world_size: int, **overrides: Any) -> dict[str, Any]:
    """Return the JSON object on the last line of standard output; only the main rank may write."""
    objective = read_run_json(resolve_checkpoint(trained))["objective"]
    config = settings(material, objective, load=str(trained), eval_only=True, **overrides)
    first, *others = run_ranks(world_size, launch, config)
    assert all(other == "" for other in others)
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
    for report in others:
        assert report["scored_tokens"] == expected["scored_tokens"]
        assert report["tokens"] == expected["tokens"]
        assert report["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-6)


def test_evaluation_scores_the_whole_split_once(trained: Path, material: Material) -> None:
    """A decoder scores all n tokens of a chunk that fits its row."""
    documents = babble(120, TINY.vocab_size)
    report = evaluate(trained, material, 1, split="0,100,0", seq_length=512)
    content = sum(len(document) for document in documents)
    if read_run_json(resolve_checkpoint(trained))["objective"] == "clm":
        # [CLS] predicts the first token and the last token predicts [SEP].
        assert report["scored_tokens"] == content + len(documents)
    else:
        assert report["scored_tokens"] == pytest.approx(0.15 * content, rel=0.1)
    assert report["tokens"] == content + 2 * len(documents)


def test_evaluation_writes_nothing_into_the_checkpoint(trained: Path, material: Material) -> None:
    before = sorted(path.relative_to(trained) for path in trained.rglob("*"))
    evaluate(trained, material, 1)
    assert sorted(path.relative_to(trained) for path in trained.rglob("*")) == before


def test_a_complete_run_is_not_changed(tmp_path: Path, material: Material) -> None:
    run_ranks(1, launch, settings(material, save=str(tmp_path), train_iters=2))
    before = (resolve_checkpoint(tmp_path) / RUN_FILE).read_text()
    output = run_ranks(1, launch, settings(material, save=str(tmp_path), load=str(tmp_path), train_iters=2))[0]
    assert "trained" in output
    assert "step 3" not in output
    assert (resolve_checkpoint(tmp_path) / RUN_FILE).read_text() == before
    assert len(metrics(tmp_path)) == 2


def test_resuming_from_an_earlier_step_sets_later_ones_aside(tmp_path: Path, material: Material) -> None:
    run_ranks(1, launch, settings(material, save=str(tmp_path)))
    expected = metrics(tmp_path)
    again = settings(material, save=str(tmp_path), load=str(tmp_path), load_step=4, exit_interval=1)
    output = run_ranks(1, launch, again)[0]
    assert f"{SET_ASIDE_FOLDER}/step_0000008" in output
    assert list_steps(tmp_path) == [4, 5]
    assert resolve_checkpoint(tmp_path).name == "step_0000005"
    assert metrics(tmp_path) == expected[:5]


def refusal(config: RunConfig) -> str:
    """Return the refusal of a launch, which needs neither torch nor megatron-core."""
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


def test_a_branch_is_saved_to_its_own_folder(trained: Path, tmp_path: Path, material: Material) -> None:
    """A run that resumes from another SAVE keeps its counters and does not change that SAVE."""
    objective = read_run_json(resolve_checkpoint(trained))["objective"]
    branch = settings(material, objective, save=str(tmp_path), load=str(trained), load_step=4, **TP2)
    run_ranks(2, launch, branch)
    assert list_steps(trained) == [4, 8]
    assert list_steps(tmp_path) == [8]
    assert metrics(tmp_path) == metrics(trained)[4:]
    assert_same_weights(trained, tmp_path)


def test_a_process_can_launch_again_after_an_error_in_the_loop(tmp_path: Path, material: Material) -> None:
    """Process groups, lock and prefetch thread are released."""
    assert run_ranks(1, fail_then_launch, settings(material, save=str(tmp_path), train_iters=2)) == [[1, 2]]


def fail_then_launch(config: RunConfig) -> list[int]:
    """Launch twice in one process; the first launch fails at its second step. Return the logged steps."""
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
    assert names.count("Optimizer.step#FusedAdamW.step") == 2, "one per step"
    later = settings(material, save=str(save), load=str(save), train_iters=5, profile_steps="2:4")
    output = run_ranks(1, launch, later)[0]
    assert "--profile-steps 2:4: no trace, as this launch starts with step 5\n" in output
    with pytest.raises(ConfigError, match="--profile-steps 9: starts after the last step, --train-iters 8"):
        check_run(settings(material, save=str(save), profile_steps="9"), 1)
