"""Records of several launches in metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_ettin.data.validation_set import ValidationSet
from megatron_ettin.train.step import StepResult, Sums
from megatron_ettin.train.telemetry.metrics import MetricsFiles, MetricsLog, Record, StepReport, quality, set_record


def files_in(save: Path) -> MetricsFiles:
    return MetricsFiles.of(str(save), "")


def write_steps(save: Path, first_step: int, last_step: int, *, mark: float) -> None:
    log = MetricsLog(files_in(save), first_step)
    for step in range(first_step, last_step + 1):
        log.write({"step": step, "loss": mark})
    log.close()


def lines(save: Path) -> list[Record]:
    return [json.loads(line) for line in files_in(save).jsonl.read_text().splitlines()]


def test_steps_trained_again_replace_their_records(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5, mark=1.0)
    write_steps(tmp_path, 4, 6, mark=2.0)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        *((step, 1.0) for step in (1, 2, 3)),
        *((step, 2.0) for step in (4, 5, 6)),
    ]


def test_a_truncated_last_line_is_dropped(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2, mark=1.0)
    with files_in(tmp_path).jsonl.open("a") as file:
        file.write('{"step": 3, "lo')
    write_steps(tmp_path, 3, 3, mark=2.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_new_run_drops_the_records_of_the_previous_one(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5, mark=1.0)
    write_steps(tmp_path, 1, 2, mark=2.0)
    assert [line["loss"] for line in lines(tmp_path)] == [2.0, 2.0]


def test_hash_of_the_validation_documents_is_in_the_file_alone(tmp_path: Path) -> None:
    log = MetricsLog(files_in(tmp_path), 1)
    record = {"step": 1, **set_record(ValidationSet(12, 3456, "0123456789abcdef"))}
    log.write(record)
    log.close()
    assert lines(tmp_path) == [record]
    assert record == {
        "step": 1,
        "validation_documents": 12,
        "validation_tokens": 3456,
        "validation_set": "0123456789abcdef",
    }
    events = EventAccumulator(str(files_in(tmp_path).tensorboard))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"validation_documents", "validation_tokens"}


def test_a_record_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = MetricsLog(files_in(tmp_path), 1)
    log.write({"step": 1, "loss": 3.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 3.0}]
    log.close()


def test_tensorboard_gets_the_same_figures(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 4, mark=1.0)
    write_steps(tmp_path, 3, 5, mark=2.0)
    events = EventAccumulator(str(files_in(tmp_path).tensorboard)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(line["step"], line["loss"]) for line in lines(tmp_path)]


def test_tensorboard_folder_may_be_set(tmp_path: Path) -> None:
    assert MetricsFiles.of(str(tmp_path), "elsewhere").tensorboard == Path("elsewhere")


def result(loss_sum: float = 20.0) -> StepResult:
    sums = Sums(loss_sum=loss_sum, scored_tokens=10, correct_tokens=4, real_tokens=100)
    return StepResult(sums, gradient_norm=0.5, applied=True)


@pytest.mark.parametrize(
    ("objective", "quality_name", "value"), [("mlm", "masked_accuracy", 0.4), ("clm", "perplexity", math.e**2)]
)
def test_record_of_a_step(objective: str, quality_name: str, value: float) -> None:
    record = StepReport(objective, 7, 700, result(), learning_rate=1e-3).record()
    assert record == {
        "step": 7,
        "tokens": 700,
        "loss": 2.0,
        quality_name: pytest.approx(value),
        "scored_tokens": result().sums.scored_tokens,
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
    }


def test_perplexity_of_a_huge_loss_is_finite() -> None:
    assert math.isfinite(quality("clm", result(1e6).sums)["perplexity"])
