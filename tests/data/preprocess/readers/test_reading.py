"""Readers: every record once and in order, from every format, and errors that name the record."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.data.preprocess.documents import BadRecord, read_documents, read_span
from megatron_ettin.data.preprocess.inputs import find_inputs
from megatron_ettin.data.preprocess.readers import decompress, lines
from megatron_ettin.data.preprocess.readers.records import Batch, Span
from megatron_ettin.data.preprocess.texts import read_texts
from megatron_ettin.errors import ConfigError

any_text = st.text(st.characters(exclude_categories=["Cs"]))
MDS = Path(__file__).parent / "fixtures" / "mds"
MDS_TEXTS = [f"document {i}: " + "the quick brown fox é世界 " * (i % 5) for i in range(40)] + [""]
MDS_IDS = [list(range(i, i + 5 + i % 7)) for i in range(40)]


@given(st.lists(any_text, max_size=20), st.booleans(), st.booleans())
def test_lines_of_any_text_are_read_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], escaped: bool, last_line_ends: bool
) -> None:
    file = tmp_path_factory.mktemp("lines") / "c.jsonl"
    # Blank lines are skipped, but counted.
    content = "\n \n".join(json.dumps({"text": text}, ensure_ascii=escaped) for text in texts)
    file.write_bytes((content + "\n" * last_line_ends).encode())
    assert list(read_texts([str(file)], "--input")) == [(2 * i + 1, text) for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a', "is not JSON (Unterminated string starting after 9 characters)"),
        (b'{"text": "a"', "is not JSON (Expecting ',' delimiter after 12 characters)"),
        (b'{"text": "a\x00b"}', "is not JSON (Invalid control character after 11 characters)"),
        (b"\x00\x00\x00", "is not JSON ("),
        (b'{"text": "\xe4"}', "is not UTF-8 (invalid continuation byte at byte 10)"),
        (b"[" * 100_000, "is not JSON (maximum recursion"),
        (b'{"text": "\\ud800"}', 'the text under "text" contains half of a surrogate pair'),
        (b'{"text": null, "id": 1}', 'is not a JSON object with a text under "text" (its keys: text, id)'),
        (b'{"body": "a"}', 'is not a JSON object with a text under "text" (its keys: body)'),
        (b"3", 'is not a JSON object with a text under "text"'),
        (b'{"text": ["a", 1]}', 'is not a JSON object with a text under "text" (its keys: text)'),
    ],
)
def test_a_bad_line_is_reported_by_its_number(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    with pytest.raises(ConfigError) as caught:
        list(read_texts([str(file)], "--input"))
    assert str(caught.value).startswith(f"--input {file} line 3: {reason}")


def test_json_that_orjson_rejects_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(
        b'{"text": "nul \\u0000 in it", "score": NaN}\r\n{"text": "\\ud83e\\udd17", "n": 1' + b"0" * 400 + b"}"
    )
    assert [text for _, text in read_texts([str(file)], "--input")] == ["nul \x00 in it", "\U0001f917"]


CONTENT = b"".join(b'{"text": "%d"}\n' % i for i in range(50_000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "zst": lambda data: zstandard.compress(data),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_files_of_several_members(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESS[suffix]
    file = tmp_path / f"c.json.{suffix}"
    file.write_bytes(compress(CONTENT) + compress(b"") + compress(CONTENT))
    assert [text for _, text in read_texts([str(file)], "--input")] == [str(i) for i in range(50_000)] * 2


def in_the_middle(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff" * 999 + data[len(data) // 2 + 999 :]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("gz", lambda data: data[:-20]),
        ("zst", lambda data: data[:-20]),
        ("gz", lambda data: data + b"trailing rubbish"),
        ("zst", lambda data: data + b"trailing rubbish"),
        ("gz", lambda data: b""),
        ("zst", lambda data: b""),
        ("bz2", lambda data: data[:-20]),
        ("xz", lambda data: data[:-20]),
        ("bz2", lambda data: data + b"trailing rubbish"),
        ("xz", lambda data: data + b"trailing rubbish"),
        ("bz2", lambda data: b""),
        ("xz", lambda data: b""),
        ("zst", in_the_middle),  # gzip may decode it to lines, and detects it only at the end
    ],
)
def test_records_before_the_damage_are_read(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / f"c.jsonl.{suffix}"
    file.write_bytes(damage(COMPRESS[suffix](CONTENT)))
    name = {"gz": "gzip", "zst": "zstd", "bz2": "bzip2", "xz": "xz"}[suffix]
    numbers: list[int] = []

    def read_all() -> None:
        for number, text in read_texts([str(file)], "--input"):
            assert text == str(number - 1)
            numbers.append(number)

    with pytest.raises(ConfigError, match=rf"{file} from line \d+ on: the {name} data is damaged"):
        read_all()
    kept = [text for _, text in read_texts([str(file)], "--input", skip_bad=True)]
    assert kept == [str(number - 1) for number in numbers]


def test_a_zstd_window_above_128_mb_is_refused(tmp_path: Path) -> None:
    for log, message in (
        (27, ""),
        (28, r"c\.jsonl\.zst from line 1 on: was compressed with zstd --long and a window above 128 MB"),
    ):
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        (tmp_path / "c.jsonl.zst").write_bytes(compressor.compress(CONTENT) + compressor.flush())
        with pytest.raises(ConfigError, match=message) if message else nullcontext():
            assert sum(1 for _ in read_texts([str(tmp_path / "c.jsonl.zst")], "--input")) == 50_000


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz", "c.txt.xz", "c.jsonl"])
@pytest.mark.parametrize("text_documents", ["file", "paragraph", "line"])
def test_a_byte_order_mark_at_the_start_is_no_text(tmp_path: Path, name: str, text_documents: str) -> None:
    text = '{"text": "a"}' if name.endswith(".jsonl") else "a"
    content = f"\ufeff{text}\n".encode()
    suffix = name.removeprefix("c.txt").removeprefix(".")
    (tmp_path / name).write_bytes(COMPRESS[suffix](content) if suffix in COMPRESS else content)
    ((_, read),) = read_texts([str(tmp_path / name)], "--input", text_documents=text_documents)
    assert read.strip() == "a"
    if name == "c.txt" and text_documents != "file":
        (file,) = find_inputs([str(tmp_path / name)])
        spans = [Span(0, 0, 5), Span(0, 5, len(content))]
        assert [r for span in spans for b in read_span(span, file, ["text"], text_documents) for r in b.records] == [
            b"a"
        ]


def test_zero_padding_after_gzip_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(CONTENT) + b"\0" * 200_000)
    assert sum(1 for _ in read_texts([str(tmp_path / "c.jsonl.gz")], "--input")) == 50_000


def records_of(file: Path, edges: list[int], text_documents: str) -> list[bytes]:
    (described,) = find_inputs([str(file)])
    records: list[bytes] = []
    for start, end in pairwise(edges):
        for batch in read_span(Span(0, start, end), described, ["text"], text_documents):
            records += batch.records
    return records


@given(st.lists(st.text("ab\n\r ", max_size=12), max_size=12), st.data(), st.sampled_from(["line", "paragraph"]))
def test_spans_cut_anywhere_contain_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], data: st.DataObject, kind: str
) -> None:
    content = "\n".join(parts).encode()
    file = tmp_path_factory.mktemp("cut") / "c.txt"
    file.write_bytes(content)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=4))
    edges = sorted({0, len(content), *cuts})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "READ_BYTES", 32)  # boundaries are searched two bytes at a time
        assert records_of(file, edges, kind) == records_of(file, [0, len(content)], kind)
    whole = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    if kind == "line":
        expected = [line for line in whole if line.strip()]
    else:
        marked = [line if line.strip() else b"\0" for line in whole]
        expected = [part.strip(b"\n") for part in b"\n".join(marked).split(b"\0") if part.strip(b"\n")]
    assert records_of(file, [0, len(content)], kind) == expected


def test_lines_before_a_span_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "c.txt"
    file.write_text("one\ntwo\n\nthree\nfour\n")
    assert lines.lines_before(str(file), 5, paragraphs=False) == 2
    assert lines.lines_before(str(file), 5, paragraphs=True) == 3


def test_a_text_file_is_one_document_by_default(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\n\nthree \x00\n")
    (tmp_path / "b.txt").write_bytes(b" \n")
    given = [str(tmp_path)]
    assert [t for _, t in read_texts(given, "--input")] == ["one\r\ntwo\n\n\nthree \x00\n"]
    assert list(read_texts(given, "--input", text_documents="line")) == [(1, "one"), (2, "two"), (5, "three \x00")]
    assert list(read_texts(given, "--input", text_documents="paragraph")) == [(1, "one\ntwo"), (5, "three \x00")]
    (tmp_path / "b.txt").write_bytes(b"fine\nnot \xff\n")
    with pytest.raises(ConfigError, match=r"b\.txt line 2: is not UTF-8 \(invalid start byte at byte 4\)"):
        list(read_texts(given, "--input", text_documents="line"))


def test_parquet_rows(tmp_path: Path) -> None:
    texts = [f"text {i} é" * (i % 9) for i in range(5000)]
    ids = [[i, i + 1, 7] for i in range(5000)]
    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ravel(ids)), 3)
    table = pyarrow.table({"text": texts, "id": range(5000), "ids": ids, "fixed": fixed})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet", row_group_size=700)
    assert list(read_texts([str(tmp_path)], "--input")) == [(i + 1, text) for i, text in enumerate(texts)]
    for column in ("ids", "fixed"):
        assert [row.tolist() for row in values(tmp_path / "c.parquet", column)] == ids
    with pytest.raises(ConfigError, match=r'row 1 on: there is no column "body" \(its columns: text, id, ids, fixed\)'):
        list(read_texts([str(tmp_path)], "--input", ["body"]))


READ_ALL = """
import sys, pyarrow
from megatron_ettin.data.preprocess.documents import read_span
from megatron_ettin.data.preprocess.inputs import find_inputs
from megatron_ettin.data.preprocess.readers.records import Span
batches = read_span(Span(0, 0, None), find_inputs(sys.argv[1:])[0], ["text"], "file")
print(sum(len(batch.records) for batch in batches), pyarrow.default_memory_pool().max_memory())
"""


def test_parquet_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).bytes(10_000_000).hex()
    texts = [letters[at : at + 1000] for at in range(0, len(letters), 1000)]
    file = tmp_path / "c.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file, use_dictionary=False)
    assert file.stat().st_size > 15_000_000
    output = subprocess.run([sys.executable, "-c", READ_ALL, file], capture_output=True, text=True, check=True).stdout
    rows, most_bytes = map(int, output.split())
    assert rows == len(texts)
    assert most_bytes < 8_000_000


def test_bad_parquet_is_reported_by_its_row(tmp_path: Path) -> None:
    for good, bad in (("a", None), ([3], None), ([3], [4, None])):
        pyarrow.parquet.write_table(pyarrow.table({"text": [good, bad]}), tmp_path / "c.parquet")
        with pytest.raises(ConfigError, match=r'c\.parquet row 2: has neither a text nor token ids under "text"'):
            list(read_texts([str(tmp_path)], "--input"))
    (tmp_path / "c.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"c\.parquet from row 1 on: "):
        list(read_texts([str(tmp_path)], "--input"))


def values(path: Path, key: str) -> list[np.ndarray]:
    arrays = []
    for number, file in enumerate(find_inputs([str(path)])):
        for batch in read_span(Span(number, 0, None), file, [key], "file"):
            assert batch.damage is None
            for document in read_documents(batch, [key]):
                assert not isinstance(document, BadRecord)
                assert isinstance(document[0], np.ndarray)
                arrays.append(document[0])
    return arrays


@pytest.mark.parametrize("name", ["raw", "zstd"])
def test_texts_of_mds_shards(name: str) -> None:
    assert [text for _, text in read_texts([str(MDS / name)], "--input")] == MDS_TEXTS
    assert [text for _, text in read_texts([str(MDS / name / "index.json")], "--input")] == MDS_TEXTS


@pytest.mark.parametrize("name", ["ids_fixed", "ids_any"])
def test_token_ids_of_mds_shards(name: str) -> None:
    assert [row.tolist() for row in values(MDS / name, "input_ids")] == MDS_IDS
    with pytest.raises(ConfigError, match=r'sample 1 on: there is no column "text" \(its columns: input_ids, length\)'):
        list(read_texts([str(MDS / name)], "--input"))


def test_damaged_mds_is_reported(tmp_path: Path) -> None:
    for file in (MDS / "raw").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / "shard.00001.mds"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ConfigError, match=r"shard\.00001\.mds: has \d+ bytes, its index says \d+"):
        list(read_texts([str(tmp_path)], "--input"))
    shard.write_bytes(content[:4] + b"\xff" * 4 + content[8:])
    with pytest.raises(ConfigError, match=r"shard\.00001\.mds from sample 1 on: "):
        list(read_texts([str(tmp_path)], "--input"))
    shard.unlink()
    with pytest.raises(ConfigError, match=r"lists shard\.00001\.mds, which does not exist"):
        list(read_texts([str(tmp_path)], "--input"))


def test_memory_of_a_batch_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl.gz"
    rng = np.random.default_rng(0)
    file.write_bytes(gzip.compress(b"".join(b'{"text": "%s"}\n' % rng.bytes(500).hex().encode() for _ in range(9000))))
    (described,) = find_inputs([str(file)])
    batches: list[Batch] = list(read_span(Span(0, 0, None), described, ["text"], "file"))
    assert sum(len(batch.records) for batch in batches) == 9000
    assert max(batch.text_bytes for batch in batches) < decompress.READ_BYTES + 4 * decompress.COMPRESSED_BYTES
    assert len(batches) > 7
    assert sum(batch.input_bytes for batch in batches) == file.stat().st_size
