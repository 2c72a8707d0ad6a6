"""Local files of pairs and choices: reading, and one-line messages for invalid files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.generative.local import find_local_tasks, read_local_task
from tests.evaluation.suites.generative.tiny import CHOICES, PAIRS, write_jsonl


def test_files_are_found_by_task_name(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "generative" / "pairs.jsonl", PAIRS)
    compressed = tmp_path / "generative" / "choices.v2.jsonl.gz"
    compressed.write_bytes(gzip.compress(b"{}"))
    (tmp_path / "generative" / "README.md").write_text("about")
    assert find_local_tasks(tmp_path) == {"pairs": plain, "choices.v2": compressed}


def test_compressed_file_has_the_same_rows(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    compressed = tmp_path / "pairs.jsonl.gz"
    compressed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_local_task("pairs", compressed).rows == read_local_task("pairs", plain).rows == PAIRS


def test_groups_are_columns_of_all_rows(tmp_path: Path) -> None:
    rows = [*PAIRS, {"uid": "three", "sentence_good": "the dog", "sentence_bad": "dog"}]
    assert read_local_task("pairs", write_jsonl(tmp_path / "pairs.jsonl", PAIRS)).group_columns == ["field", "uid"]
    assert read_local_task("pairs", write_jsonl(tmp_path / "pairs.jsonl", rows)).group_columns == ["uid"]


def test_missing_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data .*: there is no .*generative/TASK\.jsonl"):
        find_local_tasks(tmp_path)


def test_two_files_of_one_name_are_rejected(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "generative" / "pairs.jsonl", PAIRS)
    (tmp_path / "generative" / "pairs.jsonl.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match="are both pairs"):
        find_local_tasks(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence_good": "a"}, r"tasks\.jsonl:2: has no 'sentence_bad', only 'sentence_good'"),
        ({"sentence_good": "a", "sentence_bad": 3}, r"tasks\.jsonl:2: sentence_bad must be a string, and is 3"),
        ({"sentence_good": "a", "sentence_bad": " "}, r"tasks\.jsonl:2: sentence_bad is empty"),
    ],
)
def test_invalid_pairs_are_rejected(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_local_task("tasks", write_jsonl(tmp_path / "tasks.jsonl", [PAIRS[0], row]))


@pytest.mark.parametrize("label", [2, -1, "0", True, 0.0, None])
def test_label_out_of_range_is_rejected(tmp_path: Path, label: object) -> None:
    rows = [CHOICES[0], {**CHOICES[1], "label": label}]
    with pytest.raises(ConfigError, match=r"tasks\.jsonl:2: label must be 0 \(sol1\) or 1 \(sol2\), and is"):
        read_local_task("tasks", write_jsonl(tmp_path / "tasks.jsonl", rows))


def test_missing_label_is_rejected(tmp_path: Path) -> None:
    row = {key: value for key, value in CHOICES[0].items() if key != "label"}
    with pytest.raises(ConfigError, match=r"tasks\.jsonl:1: has no 'label'"):
        read_local_task("tasks", write_jsonl(tmp_path / "tasks.jsonl", [row]))


def test_unknown_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has 'text'; must have sentence_good, sentence_bad or goal, sol1, sol2, label"
    ):
        read_local_task("tasks", write_jsonl(tmp_path / "tasks.jsonl", [{"text": "a"}]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(PAIRS[0]).encode() + b"\n{]", r"tasks\.jsonl:2: is not JSON"),
        (b"[1]\n", r"tasks\.jsonl:1: is not a JSON object"),
        (b"\n\n", r"tasks\.jsonl: is empty"),
        (b"\xff\xfe", r"tasks\.jsonl: is not UTF-8 text"),
    ],
)
def test_damaged_files_are_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_local_task("tasks", path)


def test_damaged_archive_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:40])
    with pytest.raises(ConfigError, match=r"tasks\.jsonl\.gz: cannot be read"):
        read_local_task("tasks", path)
