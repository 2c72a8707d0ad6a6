"""tools/preprocess_data.py from the command line."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.data.preprocess.sentences import load_splitter
from tests.helpers.corpora import read_documents, write_byte_tokenizer, write_word_tokenizer
from tests.helpers.forked import run_script

TOOLS = Path(__file__).parents[2] / "tools"
MDS = Path(__file__).parents[1] / "data" / "preprocess" / "readers" / "fixtures" / "mds"
TEXTS = ["a b c", "", "c c", "b a unknown", "a"]
IDS = [[5, 6, 7], [], [7, 7], [6, 5, 0], [5]]


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(TOOLS / "preprocess_data.py"), *map(str, arguments)]


def call(*arguments: object, max_file_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    return run_script("tools/preprocess_data.py", *arguments, max_file_bytes=max_file_bytes)


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
    return read_documents(IndexedTokens(prefix))


def written(folder: Path, name: str) -> dict[str, bytes]:
    """Return the content of a run's files by the suffix of their names."""
    return {path.name.removeprefix(name): path.read_bytes() for path in folder.glob(f"{name}_*")}


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.splitlines()[-1]


def test_writes_the_ids_of_the_tokenizer(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out_text_document\n")
    assert documents(tmp_path / "out_text_document") == IDS
    assert done.stderr.startswith("encoder: tokenizers ")
    assert "5 documents, 9 tokens, " in done.stderr
    assert last_line(done) == "1 documents are empty; they keep their place and have no tokens"
    manifest = Manifest.load(tmp_path / "out_text_document")
    assert manifest is not None
    assert (manifest.documents, manifest.tokens, manifest.vocab_size) == (5, 9, 8)
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        f"out_text_document{suffix}" for suffix in (".bin", ".idx", ".manifest.json")
    ]


def test_append_eod_with_several_keys(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    flags = ["--append-eod", "--json-keys", "text", "title", "--tokenizer-type", "HuggingFaceTokenizer"]
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, *flags)
    assert done.returncode == 0
    assert documents(tmp_path / "out_text_document") == [[*ids, 2] if ids else [] for ids in IDS]
    assert documents(tmp_path / "out_title_document") == [[5, 2]] * len(TEXTS)


def words(number: int, length: int) -> str:
    return " ".join("abc"[(number * place) % 3] for place in range(length))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Inputs of every kind, smaller and larger than a part, and the texts of the larger ones."""
    texts = [words(i, 1 + 7 * i % 800) for i in range(3000)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.json.gz").write_bytes(gzip.compress(lines))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(lines))
    for number in range(20):
        (folder / f"d{number:02d}.jsonl").write_text(json.dumps({"text": texts[number]}) + "\n")
    (folder / "e.txt").write_text(texts[-1])
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "f.parquet", row_group_size=700)
    return folder, texts


@pytest.fixture
def mixed(tmp_path: Path, kinds: tuple[Path, list[str]]) -> tuple[list[Path], list[str]]:
    """The inputs, the first of them twice, and all texts."""
    source, texts = kinds
    folder = tmp_path / "mixed"
    shutil.copytree(source, folder)
    return [folder / "a.jsonl", folder], [*texts * 4, *texts[:20], texts[-1], *texts]


def test_workers_and_parts_do_not_change_the_bytes(tmp_path: Path, mixed: tuple[list[Path], list[str]]) -> None:
    inputs, texts = mixed
    tokenizer = write_byte_tokenizer(tmp_path / "bytes")
    outputs = []
    for name, flags in (
        ("one", ["--workers", 1]),
        ("many", ["--workers", 5, "--part-megabytes", 1, "--partitions", 5]),
        ("serial", ["--workers", 1, "--part-megabytes", 1]),
    ):
        done = call("--input", *inputs, "--output-prefix", tmp_path / name, "--tokenizer-model", tokenizer, *flags)
        assert done.returncode == 0, done.stderr
        outputs.append(written(tmp_path, name))
    tokens = IndexedTokens(tmp_path / "many_text_document")
    expected = "".join(texts).replace(" ", "d").encode()
    assert (np.asarray(tokens.tokens) == np.frombuffer(expected, np.uint8) - ord("a") + 5).all()
    assert np.diff(tokens.document_starts[:]).tolist() == [len(text) for text in texts]
    assert outputs[1] == outputs[2]  # the manifest lists parts, which depend on --part-megabytes but not on workers
    assert all(
        outputs[0][f"_text_document{suffix}"] == outputs[1][f"_text_document{suffix}"] for suffix in (".bin", ".idx")
    )
    manifest = Manifest.load(tmp_path / "many_text_document")
    assert manifest is not None
    assert len(manifest.parts) > 5


def test_shards_merge_to_the_bytes_of_one_run(tmp_path: Path, mixed: tuple[list[Path], list[str]]) -> None:
    inputs, _ = mixed
    tokenizer = write_byte_tokenizer(tmp_path / "bytes")
    base = ["--input", *inputs, "--tokenizer-model", tokenizer, "--part-megabytes", 1, "--workers", 2]
    assert call(*base, "--output-prefix", tmp_path / "whole").returncode == 0
    for index in range(3):
        flags = ["--output-prefix", tmp_path / "share", "--shard-index", index, "--num-shards", 3]
        done = call(*base, *flags)
        assert done.stdout == f"{tmp_path}/share_0000{index}-of-00003_text_document\n", done.stderr
    merge = [sys.executable, str(TOOLS / "merge_datasets.py"), "--output-prefix", str(tmp_path / "merged"), "--input"]
    subprocess.run([*merge, *done_prefixes(tmp_path)], check=True, capture_output=True)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"merged{suffix}").read_bytes() == (tmp_path / f"whole_text_document{suffix}").read_bytes()
    verify = [sys.executable, str(TOOLS / "verify_data.py"), str(tmp_path / "merged")]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0


def test_a_job_array_writes_the_shards_and_one_can_be_resubmitted(tmp_path: Path, corpus: Path) -> None:
    tokenizer = write_word_tokenizer(tmp_path / "tokenizer", ["a", "b", "c"])
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\nexec "$@"\n')
    srun.chmod(0o755)
    path = os.pathsep.join([str(srun.parent), str(Path(sys.executable).parent), os.environ["PATH"]])

    def job(index: int, count: int, **more: str) -> list[list[int]]:
        slurm = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": str(count), "SLURM_CPUS_PER_TASK": "1"}
        command = ["bash", "examples/preprocess_slurm.sbatch", corpus, tmp_path / "out", tokenizer, "--append-eod"]
        environment = {**os.environ, "PATH": path, **slurm, **more}
        subprocess.run([*map(str, command)], check=True, capture_output=True, cwd=TOOLS.parent, env=environment)
        return documents(tmp_path / f"out_{index:05d}-of-00002_text_document")

    first = job(0, 2)
    assert [*first, *job(1, 2)] == [[*ids, 2] if ids else [] for ids in IDS]
    assert job(0, 1, SHARDS="2") == first, "alone in its array"


def done_prefixes(folder: Path) -> list[str]:
    return sorted(str(path.with_suffix("")) for path in folder.glob("share_*.idx"))


def test_a_post_processor_adds_no_special_tokens(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    content["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    (tokenizer / "tokenizer.json").write_text(json.dumps(content))
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer)
    assert done.returncode == 0
    assert documents(tmp_path / "out_text_document") == IDS


def test_given_ids_are_not_encoded_again(tmp_path: Path) -> None:
    tokenizer = write_word_tokenizer(tmp_path / "t", [f"w{i}" for i in range(60)])
    flags = ["--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--json-keys", "input_ids"]
    assert call("--input", MDS / "ids_any", *flags).returncode == 0
    # Document 1 begins with 1, which is [CLS]: training adds its own.
    expected = [list(range(i + (i == 1), i + 5 + i % 7)) for i in range(40)]
    assert documents(tmp_path / "out_input_ids_document") == expected


def test_sentences_are_sequences(tmp_path: Path, tokenizer: Path) -> None:
    texts = [f"a b. c a! b {i}? c." for i in range(50)] + [""]
    corpus = write_lines(tmp_path / "c.jsonl", [json.dumps({"text": text}) for text in texts])
    flags = ["--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--append-eod"]
    done = call(*flags, "--split-sentences", "--train-punkt")
    assert done.stdout == f"{tmp_path}/out_text_sentence\n", done.stderr
    assert (tmp_path / "out.punkt" / "punkt.json").is_file()
    index = (tmp_path / "out_text_sentence.idx").read_bytes()
    sequences, marks = np.frombuffer(index, "<u8", 2, offset=18)
    splitter = load_splitter(str(tmp_path / "out.punkt"), "english", keep_newlines=False)
    assert (sequences, marks) == (sum(len(splitter.split(text)) for text in texts), len(texts) + 1)
    assert sequences > len(texts)
    assert documents(tmp_path / "out_text_sentence")[0] == [5, 6, 0, 7, 5, 0, 6, 0, 0, 7, 0, 2]
    again = call(*flags, "--split-sentences", "--punkt-model", tmp_path / "out.punkt")
    assert again.returncode == 0
    assert (tmp_path / "out_text_sentence.idx").read_bytes() == index


BAD = [
    ("{not json", "line 2: is not JSON"),
    ('{"body": "a"}', 'line 2: is not a JSON object with a text under "text"'),
    ('{"text": 3}', 'line 2: is not a JSON object with a text under "text"'),
    ("[]", 'line 2: is not a JSON object with a text under "text"'),
]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_reported_and_leaves_no_files(
    tmp_path: Path, tokenizer: Path, line: str, message: str, workers: int
) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", ['{"text": "a"}', line])
    flags = ["--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--workers", workers]
    done = call("--input", bad, *flags)
    assert done.returncode == 2
    assert last_line(done).startswith(f"error: --input {bad} {message}"), done.stderr
    assert not list(tmp_path.glob("out*"))


def test_bad_records_are_skipped_and_listed(tmp_path: Path, tokenizer: Path) -> None:
    good = [json.dumps({"text": "a b", "other": "x" * 150})] * 6000  # a megabyte
    lines = [*good, "{", *good, "", '{"text": "\\ud800"}', *good]
    (tmp_path / "in").mkdir()
    first = write_lines(tmp_path / "in" / "a.jsonl", lines)
    second = tmp_path / "in" / "b.jsonl.gz"
    second.write_bytes(gzip.compress(first.read_bytes())[:-20])
    flags = ["--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--on-error", "skip"]
    done = call("--input", tmp_path / "in", *flags, "--part-megabytes", 1, "--workers", 2)
    assert done.returncode == 0, done.stderr
    listed = [json.loads(line) for line in (tmp_path / "out.skipped.jsonl").read_text().splitlines()]
    places = [(entry["file"], entry["line"]) for entry in listed]
    assert places[:4] == [(str(file), line) for file in (first, second) for line in (6001, 12_003)]
    assert listed[4]["reason"].startswith("the gzip data is damaged (")
    assert listed[4]["onwards"]
    kept = documents(tmp_path / "out_text_document")
    assert len(kept) == 18_000 + listed[4]["line"] - 1 - 3
    assert last_line(done) == f"5 records were skipped; all are listed in {tmp_path}/out.skipped.jsonl"
    manifest = Manifest.load(tmp_path / "out_text_document")
    assert manifest is not None
    assert manifest.skipped == 5


def test_bad_flags_are_one_line(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    good = {"--input": corpus, "--output-prefix": tmp_path / "out", "--tokenizer-model": tokenizer}
    cases: list[tuple[dict[str, object], str]] = [
        ({"--input": tmp_path / "none.jsonl"}, "error: --input"),
        ({"--tokenizer-model": tmp_path}, "error: --tokenizer-model"),
        ({"--output-prefix": tmp_path / "no" / "folder"}, "error: --output-prefix"),
        ({"--output-prefx": "x"}, "error: --output-prefx: unknown flag; did you mean --output-prefix?"),
        ({"--workers": "0"}, "error: --workers: 0 is not a positive integer"),
        ({"--part-megabytes": "-1"}, "error: --part-megabytes: -1 is not a non-negative integer"),
        ({"--output-prefix": f"{tmp_path}/new/"}, f"error: --output-prefix {tmp_path}/new/: there is no folder"),
        ({"--tokenizer-type": "Sentence"}, "error: --tokenizer-type"),
        ({"--shard-index": "1"}, "error: --shard-index 1: must be from 0 to below --num-shards 1"),
        ({"--punkt-model": "x"}, "error: --punkt-model: needs --split-sentences"),
    ]
    for change, message in cases:
        done = call(*[part for flag in {**good, **change}.items() for part in flag])
        assert done.returncode == 2
        assert done.stderr.startswith(message), done.stderr
        assert done.stderr.count("\n") == 1
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for more in (["--executor", "ray"], ["--num-shards", 2]):
        done = call(*[part for flag in {**good, "--input": pipe}.items() for part in flag], *more)
        assert (done.returncode, done.stderr.split(": ")[:2]) == (2, ["error", f"--input {pipe}"])
    assert not list(tmp_path.glob("out*"))


def test_append_eod_needs_a_separator(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    content = (tokenizer / "tokenizer.json").read_text().replace("[SEP]", "[END]")
    (tokenizer / "tokenizer.json").write_text(content)
    done = call("--input", corpus, "--output-prefix", tmp_path / "o", "--tokenizer-model", tokenizer, "--append-eod")
    assert (done.returncode, last_line(done).split(":")[:2]) == (2, ["error", " --append-eod"])


def test_help_imports_no_heavy_library() -> None:
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", *command("--help")[1:]], capture_output=True, text=True, check=True
    ).stderr
    heavy = ("numpy", "torch", "tokenizers", "gigatoken", "pyarrow", "nltk", "orjson", "ray")
    assert not [name for name in heavy if f"| {name}\n" in loaded]


LINE = json.dumps({"text": "a b c " * 1000}).encode() + b"\n"


@pytest.fixture
def running(tmp_path: Path, tokenizer: Path) -> Iterator[tuple[subprocess.Popen[str], int, list[psutil.Process]]]:
    """A run in progress: its process, the pipe it reads from, and its workers."""
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    flags = ["--input", pipe, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--workers", "2"]
    with subprocess.Popen(command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        writer = os.open(pipe, os.O_WRONLY)
        try:
            for _ in range(2 * (1 << 20) // len(LINE) + 2):
                os.write(writer, LINE)
            yield process, writer, workers_of(process)
        finally:
            process.kill()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = psutil.Process(process.pid).children()
        if len(workers) == 2:
            return workers
        time.sleep(0.05)
    raise TimeoutError("no workers have started")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_exit_with_their_parent(tmp_path: Path, running, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    process, _, workers = running
    process.send_signal(number)
    assert process.wait(30) == (-number if number == signal.SIGKILL else 128 + number)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob("out*"))
        assert process.stderr.read().splitlines()[1:] == []


def test_a_killed_worker_is_reported(tmp_path: Path, running) -> None:  # type: ignore[no-untyped-def]
    process, writer, workers = running
    for worker in workers:
        worker.kill()
    os.close(writer)
    assert process.wait(30) == 2
    assert (
        last_line(process_output(process)) == "error: --workers 2: a worker was killed; fewer workers need less memory"
    )
    assert not list(tmp_path.glob("out*"))


def process_output(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    assert process.stderr is not None
    return subprocess.CompletedProcess([], process.returncode, "", process.stderr.read())


def test_blank_lines_are_skipped(tmp_path: Path, tokenizer: Path) -> None:
    corpus = write_lines(tmp_path / "c.jsonl", ["", '{"text": "a"}', "  ", '{"text": "b"}', ""])
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer)
    assert done.returncode == 0
    assert documents(tmp_path / "out_text_document") == [[5], [6]]


@pytest.mark.slow
def test_memory_of_all_processes_stays_below_a_gibibyte(tmp_path: Path) -> None:
    """On words that do not repeat, the worst case for an encoder with a word cache, and a file that cannot be cut."""
    tokenizer = write_byte_tokenizer(tmp_path / "bytes")
    rng = np.random.default_rng(0)
    inputs = tmp_path / "in"
    inputs.mkdir()
    with (inputs / "a.jsonl").open("wb") as plain, gzip.open(inputs / "b.jsonl.gz", "wb", 1) as compressed:
        for number in range(1500):
            letters = rng.integers(ord("a"), ord("z") + 1, 60_000, np.uint8)
            letters[::9] = ord(" ")
            (plain if number % 3 else compressed).write(b'{"text": "%s"}\n' % letters.tobytes())
    flags = ["--input", inputs, "--output-prefix", tmp_path / "out", "--tokenizer-model", tokenizer, "--workers", 2]
    peak = 0
    with subprocess.Popen(command(*flags), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        main = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                peak = max(peak, sum(each.memory_full_info().pss for each in (main, *main.children())))
            time.sleep(0.05)
    assert process.returncode == 0
    assert Manifest.load(tmp_path / "out_text_document").tokens == 1500 * 60_000  # type: ignore[union-attr]
    assert 100 << 20 < peak < 1 << 30


# ---- interruptions: the same command resumes, and the result equals that of an uninterrupted run


@pytest.fixture
def long_run(tmp_path: Path, mixed: tuple[list[Path], list[str]]) -> list[object]:
    inputs, _ = mixed
    tokenizer = write_byte_tokenizer(tmp_path / "bytes")
    return ["--input", *inputs, "--tokenizer-model", tokenizer, "--part-megabytes", 1, "--append-eod"]


def finished_parts(folder: Path) -> int:
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b'{"part"') if journal.is_file() else 0


def kill_after(parts: int, flags: list[object], folder: Path) -> None:
    """Kill -9 a run and its workers once it has finished that many parts; a run that ended earlier is repeated."""
    for _ in range(5):
        with subprocess.Popen(command(*flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and finished_parts(folder) < parts:
                time.sleep(0.002)
            process.kill()
        if process.returncode == -signal.SIGKILL:
            return
    raise AssertionError("the run always ended before it could be killed")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_repeated_kills_do_not_change_the_result(tmp_path: Path, long_run: list[object], workers: int) -> None:
    assert call(*long_run, "--output-prefix", tmp_path / "whole").returncode == 0
    flags = [*long_run, "--output-prefix", tmp_path / "torn", "--workers", workers]
    folder = tmp_path / "torn.parts"
    for parts in (1, 3, 6):
        kill_after(parts, flags, folder)
    # Traces of a kill during a write: a truncated line, and an unfinished copy.
    with (folder / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"part": {"ta')
    with (folder / "joined-0.bin").open("ab") as joined:
        joined.write(b"\1\2\3")
    done = call(*flags, "--workers", 2)  # the number of workers may change
    assert done.returncode == 0, done.stderr
    assert f"resuming in {folder}: " in done.stderr
    assert written(tmp_path, "torn") == written(tmp_path, "whole")
    assert not folder.exists()


@pytest.mark.slow
def test_a_kill_between_the_final_renames(tmp_path: Path, long_run: list[object]) -> None:
    flags = [*long_run, "--output-prefix", tmp_path / "out"]
    assert call(*flags).returncode == 0
    expected = written(tmp_path, "out")
    kill_after(3, flags, tmp_path / "out.parts")
    code = (
        "import sys, os; sys.path.insert(0, sys.argv.pop(1)); import pathlib; real = pathlib.Path.replace\n"
        "def once(self, target):\n"
        "    real(self, target)\n"
        "    if str(target).endswith('document.bin'): os._exit(9)\n"
        "pathlib.Path.replace = once\n"
        "import runpy; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    broken = subprocess.run([sys.executable, "-c", code, str(TOOLS.parent), *command(*flags)[1:]], check=False)
    assert broken.returncode == 9
    assert not (tmp_path / "out_text_document.idx").exists()
    done = call(*flags)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path, "out") == expected


@pytest.mark.slow
def test_damaged_parts_are_encoded_again(tmp_path: Path, long_run: list[object]) -> None:
    assert call(*long_run, "--output-prefix", tmp_path / "whole").returncode == 0
    flags = [*long_run, "--output-prefix", tmp_path / "torn", "--workers", 3]
    kill_after(7, flags, tmp_path / "torn.parts")
    for path in (tmp_path / "torn.parts").glob("0*-0.bin"):
        path.write_bytes(path.read_bytes()[:-2])
    assert call(*flags).returncode == 0
    assert written(tmp_path, "torn") == written(tmp_path, "whole")


CHANGES: list[tuple[list[object], str]] = [
    (["--on-error", "skip"], "--on-error: is skip and was stop"),
    (["--json-keys", "text", "title"], "--json-keys: is text title and was text"),
    (["--part-megabytes", "2"], "--part-megabytes: is 2 and was 1"),
    (["--text-documents", "line"], "--text-documents: is line and was file"),
]


def test_changed_flags_do_not_resume(tmp_path: Path, long_run: list[object]) -> None:
    flags = [*long_run, "--output-prefix", tmp_path / "out"]
    kill_after(2, flags, tmp_path / "out.parts")
    for change, difference in CHANGES:
        done = call(*flags, *change)
        rule = f"when the run in {tmp_path}/out.parts started; repeat that command, or delete the folder"
        assert (done.returncode, last_line(done)) == (2, f"error: {difference} {rule}")
    done = call(*[flag for flag in flags if flag != "--append-eod"])
    assert last_line(done).startswith("error: --append-eod: is not given and was given when")
    tokenizer = tmp_path / "bytes" / "tokenizer.json"
    content = tokenizer.read_text()
    tokenizer.write_text(content.replace('"c": 7,', '"c": 700,'))
    assert last_line(call(*flags)).startswith("error: --tokenizer-model: is ")
    tokenizer.write_text(content)
    (tmp_path / "mixed" / "d00.jsonl").write_text('{"text": "b"}\n')
    assert last_line(call(*flags)).startswith(
        f"error: --input: the files have changed since the run in {tmp_path}/out.parts started"
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_keeps_finished_parts(tmp_path: Path, long_run: list[object], workers: int) -> None:
    assert call(*long_run, "--output-prefix", tmp_path / "whole").returncode == 0
    flags = [*long_run, "--output-prefix", tmp_path / "out", "--workers", workers]
    # The joined file exceeds this, the files of the parts do not.
    done = call(*flags, max_file_bytes=4_000_000)
    assert done.returncode == 2
    kept = f"finished parts are kept in {tmp_path}/out.parts; run the same command to resume"
    assert last_line(done) == f"error: --output-prefix {tmp_path}/out: File too large; {kept}"
    assert finished_parts(tmp_path / "out.parts") >= 2
    assert call(*flags).returncode == 0
    assert written(tmp_path, "out") == written(tmp_path, "whole")


def test_two_runs_with_one_prefix_are_refused(tmp_path: Path, running) -> None:  # type: ignore[no-untyped-def]
    _, _, _ = running
    corpus = write_lines(tmp_path / "c.jsonl", ['{"text": "a"}'])
    done = call("--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer-model", tmp_path / "tokenizer")
    assert (done.returncode, last_line(done)) == (
        2,
        f"error: --output-prefix: another run is writing in {tmp_path}/out.parts",
    )
