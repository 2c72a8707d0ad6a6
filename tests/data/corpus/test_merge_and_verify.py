"""Merging of pairs, which equals a single writer's output, and verification, which finds the first error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.data.corpus.indexed import IndexedTokens, IndexHeader
from megatron_ettin.data.corpus.indexed_writer import IndexedWriter
from megatron_ettin.data.corpus.manifest import Manifest, Part
from megatron_ettin.data.corpus.merge import merge_pairs, pairs_in
from megatron_ettin.data.corpus.verify import BadPair, verify_pair
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256
from tests.helpers.corpora import write_corpus, write_word_tokenizer

TOOLS = Path(__file__).parents[3] / "tools"
CORPORA: list[list[list[int]]] = [[[5, 6, 7], []], [], [[8]], [[], [9, 10], [65_000, 1]]]


def write_with_manifest(prefix: Path, documents: list[list[int]], **changes: object) -> str:
    with IndexedWriter(prefix, np.uint16) as writer:
        lengths = np.array([len(document) for document in documents], np.int64)
        writer.add_documents(np.array([token for document in documents for token in document], np.int64), lengths)
        part = writer.summary()
    facts: dict[str, object] = {
        "tokenizer_fingerprint": "f",
        "tokenizer_file_sha256": "s",
        "vocab_size": 65_100,
        "encoder": "e",
        "settings": {},
        "inputs": [["a.jsonl", 1]],
        "skipped": 0,
        "index_sha256": file_sha256(Path(f"{prefix}.idx")),
        "parts": [part],
    }
    Manifest(**{**facts, **changes}).save(prefix)  # type: ignore[arg-type]
    return str(prefix)


def test_merged_pairs_equal_one_writers_pair(tmp_path: Path) -> None:
    prefixes = [write_with_manifest(tmp_path / f"p{i}", documents) for i, documents in enumerate(CORPORA)]
    write_with_manifest(tmp_path / "whole", [document for documents in CORPORA for document in documents])
    merge_pairs(prefixes, str(tmp_path / "merged"))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"merged{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    manifest = Manifest.load(tmp_path / "merged")
    assert manifest is not None
    assert [part.documents for part in manifest.parts] == [2, 0, 1, 3]
    assert manifest.inputs == [["a.jsonl", 1]]
    assert verify_pair(str(tmp_path / "merged")).endswith("6 documents, 8 tokens, ids below 65,100, checksums")
    assert pairs_in(tmp_path) == sorted([*prefixes, str(tmp_path / "merged"), str(tmp_path / "whole")])


def write_sparse(prefix: Path, lengths: list[int]) -> None:
    """Write a pair of zeros with a hole for its tokens."""
    lengths_array = np.array(lengths, np.int32)
    pointers = np.concatenate(([0], np.cumsum(lengths_array.astype(np.int64) * 2)))
    with Path(f"{prefix}.bin").open("wb") as file:
        file.truncate(int(pointers[-1]))
    header = IndexHeader(np.dtype(np.uint16), len(lengths), len(lengths) + 1)
    marks = np.arange(len(lengths) + 1, dtype=np.int64)
    Path(f"{prefix}.idx").write_bytes(
        header.to_bytes() + lengths_array.tobytes() + pointers[:-1].tobytes() + marks.tobytes()
    )


def test_pointers_past_32_bits(tmp_path: Path) -> None:
    long = 2**31 - 8
    write_sparse(tmp_path / "large", [long, long, 3])
    small = write_corpus(tmp_path / "small", [[5, 6], [7]])
    merge_pairs([str(tmp_path / "large"), small, str(tmp_path / "large"), small], str(tmp_path / "merged"))
    index = (tmp_path / "merged.idx").read_bytes()
    pointers = np.frombuffer(index, np.int64, 10, offset=34 + 4 * 10)
    lengths = [long, long, 3, 2, 1] * 2
    assert pointers.tolist() == [2 * sum(lengths[:place]) for place in range(10)]
    assert pointers[-1] > 2**33
    corpus = IndexedTokens(tmp_path / "merged")
    bounds = corpus.document_starts[:].tolist()
    documents = [corpus.tokens[bounds[number] : bounds[number + 1]].tolist() for number in (2, 3, 4, 8, 9)]
    assert documents == [[0, 0, 0], [5, 6], [7], [5, 6], [7]]
    assert (tmp_path / "merged.bin").stat().st_blocks * 512 < 1_000_000  # holes stayed holes


def share(prefix: Path, index: int, count: int, **settings: object) -> str:
    flags = {"--shard-index": index, "--num-shards": count, "key": "text", "--append-eod": True, **settings}
    return write_with_manifest(prefix, [[5, 2]] * (index + 1), settings=flags)


def test_missing_and_duplicate_shares_are_refused(tmp_path: Path) -> None:
    shares = [share(tmp_path / f"s{index}", index, 4) for index in range(4)]
    alone = share(tmp_path / "alone", 0, 1)
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--input: .*s0 is one of 4 shares; missing \(from 0\): 1, 3; --part"):
        merge_pairs([shares[0], alone, shares[2]], out)
    with pytest.raises(ConfigError, match=r"--input: .*s1 duplicates share 1; --partial merges anyway"):
        merge_pairs([*shares, shares[1]], out)
    assert not list(tmp_path.glob("out*"))
    tool = [sys.executable, str(TOOLS / "merge_datasets.py"), "--output-prefix", out, "--input", *shares[:2]]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n"), done.stderr[:8]) == (2, 1, "error: -")
    assert subprocess.run([*tool, "--partial"], check=False, capture_output=True).returncode == 0
    merge_pairs(shares, str(tmp_path / "whole"))
    part, whole = (Manifest.load(prefix) for prefix in (out, tmp_path / "whole"))
    assert part is not None
    assert whole is not None
    assert (part.settings["--shard-index"], part.settings["--num-shards"]) == (None, 4)
    assert whole.settings == {"--shard-index": 0, "--num-shards": 1, "key": "text", "--append-eod": True}


def test_settings_that_differ_become_none(tmp_path: Path) -> None:
    settings = [{"--append-eod": closed, "key": "text"} for closed in (True, False)]
    pairs = [
        write_with_manifest(tmp_path / f"p{i}", [[5]], settings=settings[i], encoder=f"e{i % 2}") for i in range(2)
    ]
    merge_pairs(pairs, str(tmp_path / "out"))
    manifest = Manifest.load(tmp_path / "out")
    assert manifest is not None
    assert (manifest.settings, manifest.encoder) == ({"--append-eod": None, "key": "text"}, "e0, e1")


def test_pairs_that_cannot_be_merged(tmp_path: Path) -> None:
    first = write_with_manifest(tmp_path / "a", [[5]])
    other = write_with_manifest(tmp_path / "b", [[5]], tokenizer_fingerprint="g")
    with IndexedWriter(tmp_path / "wide", np.int32) as writer:
        writer.add_document([5])
    out = str(tmp_path / "out")
    for prefixes, message in (
        ([first, other], "--input .*b: was made with another tokenizer than .*a"),
        ([first, str(tmp_path / "wide")], "--input .*wide: has int32 tokens and .*a uint16"),
        ([first, str(tmp_path / "none")], r"--input .*none: there is no file .*none\.idx"),
    ):
        with pytest.raises(ConfigError, match=message):
            merge_pairs(prefixes, out)
    with pytest.raises(ConfigError, match=r"--output-prefix .*out: there is no folder .*none"):
        merge_pairs([first], str(tmp_path / "none" / "out"))
    with pytest.raises(ConfigError, match="is one of the inputs"):
        merge_pairs([first], first)
    (tmp_path / "b.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"b\.bin has 0 bytes, its index says 2"):
        merge_pairs([other], out)
    assert not list(tmp_path.glob("out*"))


DOCUMENTS = [[5, 6, 7], [], [8, 9]]


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".bin", lambda data: data[:-2], r"c\.bin: has 8 bytes, its index says 10"),
        (
            ".bin",
            lambda data: data[:4] + b"\xff\xff" + data[6:],
            r"c\.bin: token 2 is 65535, outside the vocabulary of 65000",
        ),
        (".bin", lambda data: data[:4] + b"\x01\x00" + data[6:], r"c\.bin: the checksum of bytes 0 to 10 differs from"),
        (".idx", lambda data: data[:-1], r"c\.idx has \d+ bytes, its header says \d+: it is cut off"),
        (".idx", lambda data: data + b"\0", r"c\.idx: has 91 bytes, its header says 90"),
        (".idx", lambda data: data[:8] + b"x" + data[9:], r"is not an index"),
        (".idx", lambda data: data[:34] + b"\x04" + data[35:], r"c\.idx: sequence 1 starts at byte 6, the lengths.* 8"),
        (".idx", lambda data: data[:37] + b"\x80" + data[38:], r"c\.idx: sequence 0 has a negative length"),
        (".idx", lambda data: data[:66] + b"\x02" + data[67:], r"c\.idx: document 2 starts before the previous one"),
        (".idx", lambda data: data[:-8] + b"\x03" + data[-7:], r"c\.idx: its documents end at sequence 3, there are 2"),
        (".idx", lambda data: data[:66] + b"\x00" + data[67:], r"c\.idx: its checksum differs from the manifest"),
        (".manifest.json", lambda data: data.replace(b'"documents": 3', b'"documents": 4'), r"c: has 3 documents, its"),
        (".manifest.json", lambda data: data[:-9], r"c\.manifest\.json: is not a manifest"),
    ],
)
def test_the_first_error_is_named(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes], message: str) -> None:
    prefix = write_with_manifest(tmp_path / "c", DOCUMENTS, vocab_size=65_000)
    file = tmp_path / f"c{suffix}"
    assert damage(file.read_bytes()) != file.read_bytes()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadPair, match=message):
        verify_pair(prefix)


def test_output_and_exit_code_of_the_tool(tmp_path: Path) -> None:
    good = write_with_manifest(tmp_path / "good", DOCUMENTS)
    plain = write_corpus(tmp_path / "plain", DOCUMENTS)
    tokenizer = write_word_tokenizer(tmp_path / "t", ["a", "b", "c"])
    tool = [sys.executable, str(TOOLS / "verify_data.py")]
    done = subprocess.run([*tool, good, plain], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].endswith("5 tokens, no vocabulary size given, no manifest, so no checksums")
    done = subprocess.run([*tool, plain, "--tokenizer-model", tokenizer], capture_output=True, text=True, check=False)
    expected = f"bad: {plain}.bin: token 3 is 8, outside the vocabulary of 8\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
    by_index = subprocess.run([*tool, f"{good}.idx"], capture_output=True, text=True, check=False)
    assert by_index.stdout.startswith(f"{good}: 3 documents")
    missing = subprocess.run([*tool, str(tmp_path / "no"), good], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stderr) == (1, f"bad: there is no file {tmp_path}/no.idx\n")
    assert missing.stdout.startswith(good)


def test_a_manifest_round_trips(tmp_path: Path) -> None:
    prefix = write_with_manifest(tmp_path / "c", DOCUMENTS)
    manifest = Manifest.load(prefix)
    assert manifest is not None
    assert manifest.parts == [Part(3, 2, 5, 10, manifest.parts[0].sha256)]
    manifest.save(tmp_path / "d")
    assert (tmp_path / "d.manifest.json").read_bytes() == (tmp_path / "c.manifest.json").read_bytes()
    assert Manifest.load(tmp_path / "none") is None
