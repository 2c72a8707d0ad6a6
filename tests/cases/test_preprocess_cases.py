"""Inputs on which preprocessing once wrote other ids than the tokenizer's, or left files out in silence."""

from __future__ import annotations

import bz2
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from tests.helpers.corpora import read_documents

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    save_tokenizer(train_tokenizer([(ROOT / "README.md").read_text(encoding="utf-8")], 300), folder)
    return folder


def preprocess(tokenizer: Path, source: Path, prefix: Path) -> subprocess.CompletedProcess[str]:
    tool = [sys.executable, str(ROOT / "tools" / "preprocess_data.py"), "--workers", "1"]
    flags = ["--input", str(source), "--output-prefix", str(prefix), "--tokenizer-model", str(tokenizer)]
    return subprocess.run([*tool, *flags], capture_output=True, text=True, timeout=200, check=False)


def changed_tokenizer(
    bpe: Path, folder: Path, normalizer: str | None, added: list[dict[str, Any]], **model: Any
) -> Path:
    content = json.loads((bpe / "tokenizer.json").read_bytes())
    content["normalizer"] = normalizer and {"type": normalizer}
    content["model"] |= model
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    content["added_tokens"] += [{"id": 300 + n, **flags, **token} for n, token in enumerate(added)]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


UNUSED = [{"content": f"[unused{n}]"} for n in range(64)]


@pytest.mark.parametrize(
    ("normalizer", "added", "odd"),
    [
        (None, [*UNUSED, {"content": "run", "single_word": True}], "running runs prerun"),
        ("NFC", [{"content": "caf\u00e9", "normalized": True}], "un cafe\u0301 noir"),
        ("NFC", [], "\U000113c2\U000113c2 \U0001611e\U0001611e \U00016d67\U00016d67"),
        (None, [{"content": "umber", "normalized": True}, {"content": "drum"}], "a drumber"),
    ],
    ids=["single word", "normalized token", "Unicode 16", "overlapping tokens"],
)
def test_written_ids_are_those_of_the_tokenizers_library(
    bpe: Path, tmp_path: Path, normalizer: str | None, added: list[dict[str, Any]], odd: str
) -> None:
    tokenizer = changed_tokenizer(bpe, tmp_path / "t", normalizer, added)
    text = "plain words here. " * 600 + odd
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": text}) + "\n")
    done = preprocess(tokenizer, tmp_path / "c.jsonl", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    expected = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    (written,) = read_documents(IndexedTokens(tmp_path / "c_text_document"))
    assert list(written) == expected
    assert "encoder: gigatoken" in done.stderr


def test_dropout_is_not_applied(bpe: Path, tmp_path: Path) -> None:
    tokenizer = changed_tokenizer(bpe, tmp_path / "t", None, [], dropout=0.5)
    text = "plain words here. " * 600
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": text}) + "\n")
    done = preprocess(tokenizer, tmp_path / "c.jsonl", tmp_path / "c")
    assert "its BPE dropout of 0.5 is not applied" in done.stderr
    expected = Tokenizer.from_file(str(bpe / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert read_documents(IndexedTokens(tmp_path / "c_text_document")) == [expected]


def test_a_folder_leaves_no_file_out_in_silence(bpe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()

    def line(text: str) -> bytes:
        return json.dumps({"text": text}).encode() + b"\n"

    contents = {
        "a.jsonl": line("one"),
        "b.jsonl.bz2": bz2.compress(line("two")),
        "c.jsonl.xz": lzma.compress(line("three")),
        "d.jsonl.1": line("four"),
        "notes.md": b"# Notes\n",
        "part-00000": line("five"),
        "README.md": b"# A dataset\n",
        "_SUCCESS": b"",
        "dataset_info.json": b"{}",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    encode = Tokenizer.from_file(str(bpe / "tokenizer.json")).encode
    expected = [encode(text, add_special_tokens=False).ids for text in ("one", "two", "three", "four", "five")]
    for number, source in enumerate((folder, folder / "*")):
        done = preprocess(bpe, source, tmp_path / f"o{number}")
        assert done.returncode == 0, done.stderr
        left_out = [text for text in done.stderr.splitlines() if "left out" in text]
        assert left_out == [f"--input {folder / 'notes.md'}: left out (neither a known suffix nor JSON lines)"]
        prefix = tmp_path / f"o{number}_text_document"
        assert read_documents(IndexedTokens(prefix)) == expected
        manifest = Manifest.load(prefix)
        assert manifest is not None
        assert manifest.left_out == [str(folder / "notes.md")]


def test_a_repeated_parquet_column_is_refused_in_one_line(bpe: Path, tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    done = preprocess(bpe, tmp_path / "d.parquet", tmp_path / "d")
    assert done.returncode == 2
    assert 'd.parquet from row 1 on: there are 2 columns "text"' in done.stderr
    assert "Traceback" not in done.stderr
