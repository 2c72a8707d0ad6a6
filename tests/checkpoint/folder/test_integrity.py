"""Damage to a file of a checkpoint is detected, and the file named."""

from __future__ import annotations

import binascii
import json
import random
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.checkpoint.folder import integrity, layout
from tests.checkpoint.folder.test_layout import write_step


def test_checksum_of_writing_equals_that_of_reading(tmp_path: Path) -> None:
    """Against the standard library's other CRC-32, over chunks of several sizes."""
    rng, path = random.Random(0), tmp_path / "file"
    chunks = [rng.randbytes(rng.randint(0, 9_000_000)) for _ in range(3)] + [b""]
    with integrity.open_checksummed(path) as file:
        for chunk in chunks:
            assert file.write(memoryview(chunk)) == len(chunk)
        assert file.tell() == sum(map(len, chunks))
    content = b"".join(chunks)
    assert path.read_bytes() == content
    assert (
        file.record == integrity.file_record(path) == {"bytes": len(content), "crc32": f"{binascii.crc32(content):08x}"}
    )


@pytest.mark.parametrize("small_file_bytes", [0, 2**24], ids=["large", "small"])
def test_every_flipped_bit_is_detected(tmp_path: Path, small_file_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any file but the marker; one check reads the large files, the other the small ones."""
    monkeypatch.setattr(integrity, "SMALL_FILE_BYTES", small_file_bytes)
    check = integrity.check_small_files if small_file_bytes else integrity.check_large_files
    folder, rng = write_step(tmp_path, 5), random.Random(1)
    (folder / layout.TOKENIZER_FOLDER).mkdir()
    (folder / layout.TOKENIZER_FOLDER / "tokenizer.json").write_text("{}")
    integrity.mark_complete(folder)
    check(folder)
    names = json.loads((folder / integrity.MARKER_FILE).read_text())["files"]
    assert len(names) == 3
    for name in names:
        path = folder / name
        written = path.read_bytes()
        for bit in rng.sample(range(8 * len(written)), 5 if len(written) > 2 else 2):
            damaged = bytearray(written)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(integrity.DamagedCheckpoint, match=f"damaged, {name} has checksum"):
                check(folder)
        path.write_bytes(written)
    check(folder)


def test_ranks_split_the_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is read by exactly one rank."""
    monkeypatch.setattr(integrity, "SMALL_FILE_BYTES", 0)
    folder = write_step(tmp_path, 5)
    for rank in range(5):
        (folder / layout.STATE_FOLDER / f"__{rank}_1.distcp").write_bytes(b"y" * rank)
    integrity.mark_complete(folder)
    read: list[str] = []

    def note(folder: Path, files: dict[str, Any]) -> str:
        read.extend(files)
        return ""

    monkeypatch.setattr(integrity, "first_damage", note)
    for part in range(3):
        integrity.check_large_files(folder, part=part, num_parts=3)
    files = json.loads((folder / integrity.MARKER_FILE).read_text())["files"]
    assert sorted(read) == sorted(name for name, record in files.items() if record["bytes"])


def test_damaged_marker_is_refused(tmp_path: Path) -> None:
    folder = write_step(tmp_path, 5)
    for text in ("", "{", "[]", '{"files": []}', '{"files": {"run.json": {}}}', '{"files": {"run.json": 3}}'):
        (folder / integrity.MARKER_FILE).write_text(text)
        with pytest.raises(integrity.DamagedCheckpoint, match="does not list its files"):
            layout.resolve_checkpoint(tmp_path)


def test_marker_of_an_older_version_has_sizes_only(tmp_path: Path) -> None:
    folder = write_step(tmp_path, 5)
    marker = folder / integrity.MARKER_FILE
    files = json.loads(marker.read_text())["files"]
    marker.write_text(json.dumps({"files": {name: {"bytes": record["bytes"]} for name, record in files.items()}}))
    victim = folder / layout.STATE_FOLDER / "__0_0.distcp"
    victim.write_bytes(b"z" * 100)
    assert layout.resolve_checkpoint(tmp_path) == folder
    victim.write_bytes(b"z" * 99)
    with pytest.raises(integrity.DamagedCheckpoint, match="has 99 bytes and was written with 100"):
        layout.resolve_checkpoint(tmp_path)
