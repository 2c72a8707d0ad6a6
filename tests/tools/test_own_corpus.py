"""Gather text and train a tokenizer on it, as the quickstart does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.helpers.forked import run_script
from tests.helpers.speed import patience

TOOLS = Path(__file__).parents[2] / "tools"


def call(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_script(f"tools/{tool}", *arguments)


GATHER_FROM = """
import runpy, sys, sysconfig
folder, sys.argv = sys.argv[1], sys.argv[2:]
sysconfig.get_path = {"stdlib": folder}.__getitem__
sys.path.insert(0, sys.argv[0].rsplit("/", 1)[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def part_of_the_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty files of the standard library, with twice the text that is kept."""
    folder = tmp_path_factory.mktemp("stdlib")
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*root.glob("[a-d]*.py"), *root.glob("email/*.py"), *root.glob("test/test_a*.py")]):
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


def gather(stdlib: Path, file: Path) -> None:
    tool = [str(TOOLS / "gather_corpus.py"), "--output", str(file), "--max-bytes", "600000"]
    command = [sys.executable, "-c", GATHER_FROM, str(stdlib), *tool]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, part_of_the_library: Path) -> Path:
    file = tmp_path_factory.mktemp("library") / "corpus.jsonl"
    gather(part_of_the_library, file)
    return file


def test_the_standard_library_is_gathered_without_repeats_in_a_fixed_order(
    library: Path, part_of_the_library: Path, tmp_path: Path
) -> None:
    documents = [json.loads(line) for line in library.read_text().splitlines()]
    texts = [document["text"] for document in documents]
    assert 300_000 < sum(len(text.encode()) for text in texts) <= 600_000
    assert len(set(texts)) == len(texts) > 50
    assert all(document["source"].split(":")[0].split("#")[0].endswith(".py") for document in documents)
    assert not any(document["source"].startswith("test/") for document in documents)
    gather(part_of_the_library, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == library.read_bytes()


def test_own_text_is_gathered_without_repeats(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("one", "two\u2028two", "", "one")]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    done = call("gather_corpus.py", "--corpus", tmp_path / "own.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(document["text"] for document in documents) == ["one", "two\u2028two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n \n", "leaves no text"), (b"a\xff", "is not UTF-8 text (invalid start byte at byte 1)")],
)
def test_a_corpus_without_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "own.txt").write_bytes(content)
    done = call("gather_corpus.py", "--corpus", tmp_path / "own.txt", "--output", tmp_path / "out.jsonl")
    assert (done.returncode, done.stderr) == (2, f"error: --corpus {tmp_path}/own.txt: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_a_missing_corpus_is_refused(tmp_path: Path) -> None:
    done = call("gather_corpus.py", "--corpus", tmp_path / "none", "--output", tmp_path / "out.jsonl")
    assert (done.returncode, done.stderr) == (2, f"error: --corpus {tmp_path}/none: there is no such file\n")


def test_transformers_reads_the_tokenizer(library: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for folder in ("one", "two"):
        done = call("train_tokenizer.py", "--input", library, "--output", tmp_path / folder, "--vocab-size", 1024)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(tokenizer) == 1024
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    roles = (tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token, tokenizer.mask_token, tokenizer.unk_token)
    assert roles == ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]")
    text = "def f(x):\n    return x  # Grüße, 世界 \x00 🤗\n"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids[1:-1]) == text
    before, masked = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("the", "the [MASK]"))
    assert masked == [*before, tokenizer.mask_token_id], "the mask includes the space before it"


def test_a_vocabulary_larger_than_the_text_allows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "few words"}\n')
    for size in (100, 5000):
        done = call(
            "train_tokenizer.py", "--input", tmp_path / "c.jsonl", "--output", tmp_path / "t", "--vocab-size", size
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: --vocab-size {size}: ")
        assert not (tmp_path / "t").exists()


def test_a_text_file_too_large_for_one_document_is_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text("a few words and others, a few words more\n\n" * 1000)
    tool = ("train_tokenizer.py", "--input", corpus, "--output", tmp_path / "t", "--vocab-size", 270)
    done = call(*tool, "--text-documents", "paragraph")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/t: 270 tokens\n"), done.stderr
    os.truncate(corpus, 40 << 20)
    message = f"error: --input {corpus} from line 1 on: a file of this size cannot be one document; give --text-doc"
    assert call(*tool).stderr.startswith(message)


def test_tokenizer_training_reports_the_line_without_text(tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"text": "a"}\n{"body": "b"}\n')
    done = call("train_tokenizer.py", "--input", corpus, "--output", tmp_path / "t")
    message = f'error: --input {corpus} line 2: is not a JSON object with a text under "text" (its keys: body)\n'
    assert (done.returncode, done.stderr) == (2, message)
    assert not (tmp_path / "t").exists()
