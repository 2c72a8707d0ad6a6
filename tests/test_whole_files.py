"""Files of lines: whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from megatron_ettin.files import write_json_lines


def test_files_in_new_folders_hold_their_rows(tmp_path: Path) -> None:
    files: dict[Path, list[dict[str, str]]] = {tmp_path / "a" / "x.jsonl": [{"text": "é\n"}, {}], tmp_path / "y": []}
    write_json_lines(files)
    assert [json.loads(line) for line in (tmp_path / "a" / "x.jsonl").read_text().splitlines()] == [{"text": "é\n"}, {}]
    assert (tmp_path / "y").read_text() == ""
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["x.jsonl", "y"]


def test_one_that_fails_leaves_all_as_they_were(tmp_path: Path) -> None:
    def rows() -> Iterator[Mapping[str, str]]:
        yield {"text": "half"}
        raise OSError("no space left")

    (tmp_path / "first.jsonl").write_text("before\n")
    with pytest.raises(OSError, match="no space left"):
        write_json_lines({tmp_path / "first.jsonl": [{"text": "new"}], tmp_path / "second.jsonl": rows()})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"first.jsonl": "before\n"}
