"""Results on disk: reuse, recomputation, and recovery from a killed process."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import Measure, TaskResult, read_results
from megatron_ettin.evaluation.store import ResultStore

SUBJECT = Subject(
    given="models/a", name="a", folder=Path("/models/a"), revision="", kind="encoder", parameters=10, checksum="abc",
    has_head=True,
)  # fmt: skip
RESULT = TaskResult(
    {"accuracy": Measure(0.5, 0.25, 0.75), "pearson": Measure(math.nan, math.nan, math.nan)},
    "accuracy",
    {"accuracy": [1.0, 0.0, math.nan]},
    {"learning_rate": 1e-4},
)
SETTINGS = {"seeds": (1, 2), "data": "x"}


def store_of(output: Path, subject: Subject = SUBJECT) -> ResultStore:
    return ResultStore(output, subject, "bias", {"torch": "2"})


def must_not_run() -> Any:
    raise AssertionError("computed again")


def test_finished_task_is_read_back(tmp_path: Path) -> None:
    assert store_of(tmp_path).finished("t", SETTINGS) is None
    store_of(tmp_path).save("t", SETTINGS, RESULT, 1.26, is_local=True)
    result = store_of(tmp_path).finished("t", {"data": "x", "seeds": [1, 2]})
    assert result is not None
    assert result.main_measure == Measure(0.5, 0.25, 0.75)
    assert math.isnan(result.metrics["pearson"].value)
    assert list(result.items["accuracy"])[:2] == [1.0, 0.0]
    assert math.isnan(result.items["accuracy"][2])
    assert result.details == {"learning_rate": 1e-4}


def test_other_settings_or_weights_are_not_finished(tmp_path: Path) -> None:
    store_of(tmp_path).save("t", SETTINGS, RESULT, 1.0, is_local=True)
    assert store_of(tmp_path).finished("t", {**SETTINGS, "data": "y"}) is None
    assert store_of(tmp_path).finished("u", SETTINGS) is None
    assert store_of(tmp_path, replace(SUBJECT, checksum="other")).finished("t", SETTINGS) is None


def test_file_is_complete_and_strict_json(tmp_path: Path) -> None:
    store_of(tmp_path).save("t", SETTINGS, RESULT, 1.26, is_local=True)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads((tmp_path / "a" / "bias.json").read_text(), parse_constant=refuse)
    assert content["model"]["kind"] == "encoder"
    task = content["tasks"]["t"]
    assert task["settings"] == {"seeds": [1, 2], "data": "x"}
    assert (task["model_checksum"], task["versions"], task["seconds"]) == ("abc", {"torch": "2"}, 1.3)
    assert task["metrics"]["accuracy"] == {"value": 0.5, "low": 0.25, "high": 0.75}
    items = json.loads((tmp_path / "a" / "items" / "bias" / "t.json").read_text(), parse_constant=refuse)
    assert items == {"accuracy": [1.0, 0.0, None]}


def test_local_data_are_recorded(tmp_path: Path) -> None:
    store_of(tmp_path).save("own", SETTINGS, RESULT, 1.0, is_local=True)
    store_of(tmp_path).save("hub", SETTINGS, RESULT, 1.0, is_local=False)
    assert read_results(tmp_path)[0].local == {"bias": {"own"}}
    path = tmp_path / "a" / "bias.json"
    content = json.loads(path.read_text())
    del content["tasks"]["hub"]["local"]
    path.write_text(json.dumps(content))
    assert read_results(tmp_path)[0].local == {"bias": {"own", "hub"}}, "without a record, data count as local"


def test_all_models_are_read_back(tmp_path: Path) -> None:
    store_of(tmp_path).save("t", SETTINGS, RESULT, 1.0, is_local=True)
    other = replace(SUBJECT, name="b", folder=Path("/models/b"), kind="decoder")
    store_of(tmp_path, other).save("t", SETTINGS, RESULT, 1.0, is_local=True)
    first, second = read_results(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert second.model["kind"] == "decoder"
    assert first.suites["bias"]["t"].main_measure.value == 0.5
    with pytest.raises(ConfigError, match="has no results"):
        read_results(tmp_path / "none")
    (tmp_path / "a" / "bias.json").write_text("{")
    with pytest.raises(ConfigError, match=r"bias\.json is damaged"):
        read_results(tmp_path)


def test_parts_are_computed_once(tmp_path: Path) -> None:
    parts = store_of(tmp_path).parts("t", SETTINGS)
    assert parts.get_or_compute("lr=1e-4 seed=1", lambda: {"score": 0.5}) == {"score": 0.5}
    again = store_of(tmp_path).parts("t", SETTINGS)
    assert again.get_or_compute("lr=1e-4 seed=1", must_not_run) == {"score": 0.5}
    assert again.get_or_compute("lr=1e-4_seed=1", lambda: 2) == 2, "similar names are distinct parts"
    assert again.get_or_compute("nothing", lambda: None) is None
    assert again.get_or_compute("nothing", must_not_run) is None


@pytest.mark.parametrize("change", [{"settings": {"data": "y"}}, {"subject": replace(SUBJECT, checksum="d")}])
def test_parts_of_other_settings_or_weights_are_deleted(tmp_path: Path, change: dict[str, Any]) -> None:
    store_of(tmp_path).parts("t", SETTINGS).get_or_compute("p", lambda: 1)
    later = store_of(tmp_path, change.get("subject", SUBJECT)).parts("t", change.get("settings", SETTINGS))
    assert later.get_or_compute("p", lambda: 2) == 2


def test_finished_task_leaves_no_parts(tmp_path: Path) -> None:
    store_of(tmp_path).parts("t", SETTINGS).get_or_compute("p", lambda: 1)
    store_of(tmp_path).save("t", SETTINGS, RESULT, 1.0, is_local=True)
    assert list((tmp_path / "a" / "parts").rglob("*.json")) == []


def test_two_models_of_one_name_are_rejected(tmp_path: Path) -> None:
    store_of(tmp_path)
    store_of(tmp_path, replace(SUBJECT, checksum="trained on"))
    moved = replace(SUBJECT, checksum="trained on", folder=Path("/elsewhere/a"))
    store_of(tmp_path, moved)
    with pytest.raises(ConfigError, match=r"contains results of models/a, another model of the same name; rename one"):
        store_of(tmp_path, replace(SUBJECT, folder=Path("/third/a"), given="third/a"))


LONG_TASK = """
import sys, time
from pathlib import Path
from tests.evaluation.test_store import SETTINGS, store_of
def compute(number):
    if number == 2 and sys.argv[2] == "hang":
        print("hangs", flush=True)
        time.sleep(60)
    print("computed", number, flush=True)
    return number
store = store_of(Path(sys.argv[1]))
parts = store.parts("t", SETTINGS)
print([parts.get_or_compute(f"part {number}", lambda: compute(number)) for number in range(4)])
"""


def test_killed_process_loses_only_the_current_part(tmp_path: Path) -> None:
    def start(mode: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LONG_TASK, str(tmp_path), mode]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    first = start("hang")
    assert first.stdout is not None
    lines = [first.stdout.readline() for _ in range(3)]
    assert lines == ["computed 0\n", "computed 1\n", "hangs\n"]
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    assert start("continue").communicate()[0].splitlines() == ["computed 2", "computed 3", "[0, 1, 2, 3]"]


def test_concurrent_writers_keep_all_tasks(tmp_path: Path) -> None:
    """Two processes finish tasks of the same model and suite at the same time."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.evaluation.test_store import RESULT, SETTINGS, store_of\n"
        "for number in range(20):\n"
        "    task = f'{sys.argv[2]}{number}'\n"
        "    store_of(Path(sys.argv[1])).save(task, SETTINGS, RESULT, 1.0, is_local=True)\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "xy"]
    assert [process.wait() for process in both] == [0, 0]
    assert len(json.loads((tmp_path / "a" / "bias.json").read_text())["tasks"]) == 40
