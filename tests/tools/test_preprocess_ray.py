"""Preprocessing on a local Ray cluster: the same bytes, even after a worker is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.corpora import write_word_tokenizer

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_ray_worker_does_not_change_the_result(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    tokenizer = write_word_tokenizer(tmp_path / "tokenizer", ["a", "b", "c"])
    with (tmp_path / "c.jsonl").open("w") as file:
        for number in range(12_000):
            text = " ".join("abc"[(number * place) % 3] for place in range(number % 900))
            file.write(json.dumps({"text": text}) + "\n")
    flags = ["--input", str(tmp_path / "c.jsonl"), "--tokenizer-model", str(tokenizer), "--part-megabytes", "1"]

    def command(name: str, executor: str) -> list[str]:
        return [sys.executable, str(TOOL), *flags, "--output-prefix", str(tmp_path / name), "--executor", executor]

    subprocess.run(command("plain", "local"), check=True, capture_output=True)
    with subprocess.Popen(command("ray", "ray"), stderr=subprocess.PIPE, text=True) as process:
        victim = wait_for_worker(process, tmp_path / "ray.parts" / "journal.jsonl")
        victim.kill()
        stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 0, stderr
    for suffix in (".bin", ".idx", ".manifest.json"):
        output, expected = (tmp_path / f"{name}_text_document{suffix}" for name in ("ray", "plain"))
        assert output.read_bytes() == expected.read_bytes()


def wait_for_worker(process: subprocess.Popen[str], journal: Path) -> psutil.Process:
    """Return a Ray worker that runs a task, once the first part is finished."""
    while process.poll() is None:
        if journal.is_file() and b'"part"' in journal.read_bytes():
            for child in psutil.Process(process.pid).children(recursive=True):
                if "ray::_do_task" in " ".join(child.cmdline()):
                    return child
        time.sleep(0.005)
    raise AssertionError("the run ended before a worker could be killed")
