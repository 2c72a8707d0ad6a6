"""tools/preprocess_data.py as a user calls it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from megatron_ettin.data.indexed import IndexedTokens
from tests.helpers.corpora import write_word_tokenizer

TOOLS = Path(__file__).parents[2] / "tools"
TEXTS = ["a b c", "", "c c", "b a unknown", "a"]
IDS = [[5, 6, 7], [], [7, 7], [6, 5, 0], [5]]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "preprocess_data.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_word_tokenizer(tmp_path / "tokenizer", ["a", "b", "c"])


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "corpus.jsonl", [json.dumps({"text": text, "title": "a"}) for text in TEXTS])


def documents(prefix: Path) -> list[list[int]]:
    found = IndexedTokens(prefix)
    return [found.document(number).tolist() for number in range(found.num_documents)]


def test_writes_what_the_tokenizer_says(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out_text_document\n")
    assert documents(tmp_path / "out_text_document") == IDS


def test_end_of_document_and_several_keys(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    flags = ["--append-eod", "--json-keys", "text", "title", "--tokenizer-type", "HuggingFaceTokenizer"]
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, *flags)
    assert done.returncode == 0
    assert documents(tmp_path / "out_text_document") == [[*ids, 2] if ids else [] for ids in IDS]
    assert documents(tmp_path / "out_title_document") == [[5, 2]] * len(TEXTS)


def test_any_number_of_workers_and_files_gives_the_same_bytes(tmp_path: Path, tokenizer: Path) -> None:
    # Long enough for several blocks in each file.
    lines = [json.dumps({"text": " ".join("abc"[(i * j) % 3] for j in range(400))}) for i in range(1500)]
    plain = write_lines(tmp_path / "plain.jsonl", lines)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for workers in (1, 3):
        prefix = tmp_path / f"w{workers}"
        flags = ["--output-prefix", prefix, "--tokenizer-model", tokenizer, "--workers", workers]
        done = call("--input", plain, packed, *flags)
        assert done.returncode == 0, done.stderr
    for suffix in (".bin", ".idx"):
        files = [(tmp_path / f"w{workers}_text_document{suffix}").read_bytes() for workers in (1, 3)]
        assert files[0] == files[1]
    assert len(documents(tmp_path / "w3_text_document")) == 2 * len(lines)


def test_special_tokens_of_a_post_processor_are_not_written(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    content["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    (tokenizer / "tokenizer.json").write_text(json.dumps(content))
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer)
    assert done.returncode == 0
    assert documents(tmp_path / "out_text_document") == IDS


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{not json", "line 2: is not JSON"),
        ('{"body": "a"}', 'line 2: is no JSON object with a text under "text"'),
        ('{"text": 3}', 'line 2: is no JSON object with a text under "text"'),
        ("[]", 'line 2: is no JSON object with a text under "text"'),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_left(
    tmp_path: Path, tokenizer: Path, line: str, told: str, workers: int
) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", ['{"text": "a"}', line])
    flags = ["--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--workers", workers]
    done = call("--input", bad, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --input {bad} {told}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_wrong_flags_are_one_line(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    good = {"--input": corpus, "--output-prefix": tmp_path / "out", "--tokenizer-model": tokenizer}
    cases: list[tuple[dict[str, object], str]] = [
        ({"--input": tmp_path / "none.jsonl"}, "error: --input"),
        ({"--tokenizer-model": tmp_path}, "error: --tokenizer-model"),
        ({"--output-prefix": tmp_path / "no" / "folder"}, "error: --output-prefix"),
        ({"--output-prefx": "x"}, "error: --output-prefx: unknown flag; did you mean --output-prefix?"),
        ({"--workers": "0"}, "error: --workers: 0 is not a whole number above 0"),
        ({"--tokenizer-type": "Sentence"}, "error: --tokenizer-type"),
    ]
    for change, told in cases:
        done = call(*[part for flag in {**good, **change}.items() for part in flag])
        assert done.returncode == 2
        assert done.stderr.startswith(told), done.stderr
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_append_eod_needs_a_separator(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    content = (tokenizer / "tokenizer.json").read_text().replace("[SEP]", "[END]")
    (tokenizer / "tokenizer.json").write_text(content)
    done = call("--input", corpus, "--output-prefix", tmp_path / "o", "--tokenizer-model", tokenizer, "--append-eod")
    assert (done.returncode, done.stderr.split(":")[:2]) == (2, ["error", " --append-eod"])


LINE = json.dumps({"text": "a b c " * 1000}).encode() + b"\n"


@pytest.fixture
def running(tmp_path: Path, tokenizer: Path) -> Iterator[tuple[subprocess.Popen[str], int, list[psutil.Process]]]:
    """A preprocessing in the middle of its work: the process, the pipe it reads from, and its workers."""
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    flags = ["--input", pipe, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--workers", "2"]
    command = [sys.executable, str(TOOLS / "preprocess_data.py"), *map(str, flags)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        writer = os.open(pipe, os.O_WRONLY)
        try:
            for _ in range(2 * (1 << 20) // len(LINE) + 2):  # more than one block for each worker
                os.write(writer, LINE)
            yield process, writer, spawned_workers(process)
        finally:
            process.kill()


def spawned_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if len(workers) == 2:
            return workers
        time.sleep(0.05)
    raise TimeoutError("no workers were started")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, running, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    process, _, workers = running
    process.send_signal(number)
    assert process.wait(30) == (-number if number == signal.SIGKILL else 128 + number)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob("out*"))
        assert process.stderr.read() == ""


def test_a_killed_worker_is_told(tmp_path: Path, running) -> None:  # type: ignore[no-untyped-def]
    process, writer, workers = running
    workers[0].kill()
    os.close(writer)
    assert process.wait(30) == 2
    assert process.stderr.read() == "error: --workers 2: a worker was killed; fewer need less memory\n"
    assert not list(tmp_path.glob("out*"))


def test_blank_lines_are_no_documents(tmp_path: Path, tokenizer: Path) -> None:
    corpus = write_lines(tmp_path / "c.jsonl", ["", '{"text": "a"}', "  ", '{"text": "b"}', ""])
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer)
    assert done.returncode == 0
    assert documents(tmp_path / "out_text_document") == [[5], [6]]


def test_a_folder_is_no_input(tmp_path: Path, tokenizer: Path) -> None:
    done = call("--input", tmp_path, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer)
    assert (done.returncode, done.stderr) == (2, f"error: --input {tmp_path}: is a folder, not a file\n")
