"""Byte ranges of tensors that torch.save wrote: the bytes there are the elements."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_ettin.convert.file_spans import FileSpan, FileWindow, find_elements
from megatron_ettin.convert.safetensors_writer import TensorEntry, write_safetensors

BEFORE, AFTER = b"bytes before it." * 9, b"bytes after it.."


def save_between(folder: Path, value: Any) -> tuple[Path, int]:
    """Write an archive between other bytes; return the file and the archive's length."""
    archive = io.BytesIO()
    torch.save(value, archive)
    path = folder / "file"
    path.write_bytes(BEFORE + archive.getvalue() + AFTER)
    return path, len(archive.getvalue())


def locate(folder: Path, value: Any, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int | None:
    path, num_bytes = save_between(folder, value)
    with path.open("rb") as file:
        return find_elements(file, len(BEFORE), num_bytes, shape, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (1, 4), (2, 3, 4)])
def test_located_bytes_are_the_elements(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape).to(dtype)
    begin = locate(tmp_path, tensor, shape, dtype)
    assert begin is not None
    content = bytearray((tmp_path / "file").read_bytes()[begin : begin + tensor.numel() * dtype.itemsize])
    assert torch.frombuffer(content, dtype=dtype).view(shape).equal(tensor)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(torch.randn(3, 5).T, id="transposed"),
        pytest.param(torch.randn(6, 3)[1:], id="not at the start of its storage"),
        pytest.param(torch.randn(7, 3)[:5], id="not the whole storage"),
        pytest.param(torch.randn(3, 5), id="another shape"),
        pytest.param(torch.zeros(5, 3, dtype=torch.bfloat16), id="another type"),
        pytest.param(torch.zeros(5, 3, dtype=torch.int32), id="not a type of weights"),
        pytest.param([torch.zeros(5, 3)], id="inside a list"),
        pytest.param({"a": 1}, id="not a tensor"),
    ],
)
def test_other_layouts_are_left_to_torch(tmp_path: Path, value: Any) -> None:
    assert locate(tmp_path, value, (5, 3)) is None


class Foreign:
    """Creates a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.touched,)


def test_code_in_an_archive_is_not_run(tmp_path: Path) -> None:
    assert locate(tmp_path, Foreign(tmp_path / "touched"), (5, 3)) is None
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("missing", [1, 500])
def test_a_truncated_archive_is_refused(tmp_path: Path, missing: int) -> None:
    path, num_bytes = save_between(tmp_path, torch.zeros(5, 3))
    path.write_bytes(path.read_bytes()[: len(BEFORE) + num_bytes - missing])
    with path.open("rb") as file, pytest.raises(Exception, match=r"."):
        find_elements(file, len(BEFORE), num_bytes, (5, 3), torch.float32)


def test_a_window_reads_only_its_range(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        window = FileWindow(file, 3, 4)
        assert window.read() == b"3456"
        assert window.seek(-2, io.SEEK_END) == 2
        assert window.read(9) == b"56"
        with pytest.raises(ValueError, match="no byte -1"):
            window.seek(-1)


def test_spans_of_several_files_are_written_as_one_tensor(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensor = torch.randn(4, 3)
    for half in (0, 1):
        (tmp_path / f"half{half}").write_bytes(b"xx" + tensor[2 * half : 2 * half + 2].numpy().tobytes() + b"yy")
    first, second = tmp_path / "half0", tmp_path / "half1"
    spans = [FileSpan(first, 2, 24), FileSpan(second, 2, 12), FileSpan(second, 14, 12)]
    values: list[Tensor | list[FileSpan]] = [spans, tensor[0]]
    entries = [TensorEntry("a", (4, 3), torch.float32), TensorEntry("b", (3,), torch.float32)]
    write_safetensors(tmp_path / "out", entries, values)
    assert load_file(tmp_path / "out")["a"].equal(tensor)
    assert load_file(tmp_path / "out")["b"].equal(tensor[0])
    with pytest.raises(OSError, match="half1 ends before byte 32"):
        write_safetensors(tmp_path / "cut", entries[:1], [[spans[0], FileSpan(second, 8, 24)]])
