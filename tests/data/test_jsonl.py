"""Reading lines of JSON: all of them, in order, and errors that say where."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.data import jsonl
from megatron_ettin.data.jsonl import read_blocks, read_texts

any_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(any_text, max_size=20), st.booleans(), st.booleans())
def test_every_line_in_order_whatever_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], escaped: bool, last_line_ends: bool
) -> None:
    file = tmp_path_factory.mktemp("lines") / "c.jsonl"
    # Blank lines are passed over, and counted.
    content = "\n \n".join(json.dumps({"text": text}, ensure_ascii=escaped) for text in texts)
    file.write_bytes((content + "\n" * last_line_ends).encode())
    assert list(read_texts(str(file), "--input")) == [(2 * i + 1, text) for i, text in enumerate(texts)]


def test_blocks_hold_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", 100)
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    lines = [b'{"text": "%s"}\n' % (b"x" * (i % 60)) for i in range(300)]
    plain.write_bytes(b"".join(lines))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    blocks = list(read_blocks([str(plain), str(packed)], "--input"))
    assert [line for block in blocks for line in block.lines] == lines * 2
    assert [number for block in blocks for number in block.numbers] == [*range(1, 301)] * 2
    assert sum(block.num_bytes for block in blocks) == 2 * plain.stat().st_size
    assert max(block.num_bytes for block in blocks) < 100 + max(map(len, lines))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": "a', "is not JSON (Invalid control character after 11 characters)"),
        (b'{"text": "a"', "is not JSON (Expecting ',' delimiter after 13 characters)"),
        (b'{"text": "\xe4"}', "is not JSON ('utf-8' codec"),
        (b"[" * 100_000, "is not JSON (maximum recursion"),
        (b'{"text": "\\ud800"}', 'the text under "text" holds half of a surrogate pair'),
        (b'{"text": null, "id": 1}', 'is no JSON object with a text under "text" (its keys: text, id)'),
        (b"3", 'is no JSON object with a text under "text"'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, told: str) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    with pytest.raises(ConfigError) as caught:
        list(read_texts(str(file), "--input"))
    assert str(caught.value).startswith(f"--input {file} line 3: {told}")


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"no gzip", lambda data: data[:50] + data[90:]]
)
def test_a_damaged_gzip_is_named(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "c.jsonl.gz"
    file.write_bytes(damage(gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(1000)))))
    with pytest.raises(ConfigError, match=r"--input .*c\.jsonl\.gz from line 1 on: the gzip data is damaged"):
        list(read_texts(str(file), "--input"))
