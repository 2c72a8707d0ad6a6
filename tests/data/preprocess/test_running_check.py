"""Documents that a running job encodes with both libraries, and what a difference leads to."""

from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.data.preprocess import encoders, running_check
from megatron_ettin.data.preprocess.encoders import GigatokenEncoder, LibraryEncoder
from megatron_ettin.data.preprocess.run import preprocess
from megatron_ettin.data.preprocess.running_check import checked_places
from megatron_ettin.data.preprocess.settings import PreprocessSettings

NUM_DOCUMENTS = 110
ODD_DOCUMENT = 100
TEXTS = ["plain words " * 1000 + ("odd" if n == ODD_DOCUMENT else "even") for n in range(NUM_DOCUMENTS)]


def test_about_one_in_2048_is_checked_whatever_the_batches() -> None:
    texts = [f"text {n % 1000}" for n in range(200_000)]
    numbers = range(1, len(texts) + 1)
    places = list(checked_places(3, 5, numbers, texts))
    assert 60 <= len(places) <= 140
    in_batches = [
        start + place
        for start in range(0, len(texts), 777)
        for place in checked_places(3, 5, numbers[start : start + 777], texts[start : start + 777])
    ]
    assert in_batches == places
    one_each = [n for n, text in enumerate(texts) if list(checked_places(0, n, [1], [text]))]
    assert 60 <= len(one_each) <= 140, "files of one document are checked as often"
    assert list(checked_places(0, 0, numbers, [np.zeros(1, np.int64)] * len(texts))) == []


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    save_tokenizer(train_tokenizer(["plain words odd even"], 270), folder)
    return folder


@pytest.fixture
def wrong_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make gigatoken drop the last token of the odd document, and check every document."""
    right = GigatokenEncoder.encode

    def wrong(self: GigatokenEncoder, texts: Any) -> Any:
        return [ids[:-1] if "odd" in text else ids for text, ids in zip(texts, right(self, texts), strict=True)]

    monkeypatch.setattr(encoders.GigatokenEncoder, "encode", wrong)
    monkeypatch.setattr(running_check, "NUMBERS_KEPT", 1)
    monkeypatch.setattr(running_check, "TEXTS_KEPT", 1)


@pytest.mark.usefixtures("wrong_encoder")
@pytest.mark.parametrize(("form", "workers"), [("plain", 1), ("plain", 2), ("gz", 2), ("pipe", 1)])
def test_a_difference_encodes_its_part_again(tmp_path: Path, tokenizer: Path, form: str, workers: int) -> None:
    content = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    source = tmp_path / ("c.jsonl.gz" if form == "gz" else "c.jsonl")
    if form == "pipe":
        os.mkfifo(source)
        threading.Thread(target=source.write_bytes, args=(content,), daemon=True).start()
    else:
        source.write_bytes(gzip.compress(content) if form == "gz" else content)
    settings = PreprocessSettings(
        (str(source),), str(tmp_path / "o"), str(tokenizer), workers=workers, part_megabytes=1
    )
    lines: list[str] = []
    result = preprocess(settings, log=lines.append)
    written = np.fromfile(f"{result.pairs[0]}.bin", np.uint16)
    expected = np.concatenate(LibraryEncoder(TokenizerFiles.load(tokenizer)).encode(TEXTS))
    assert np.array_equal(written, expected)
    assert lines[0].startswith("encoder: gigatoken")
    (line,) = [line for line in lines if "differ" in line]
    assert line.endswith("the part is encoded again, exactly")
    assert (result.progress.documents, result.progress.tokens) == (NUM_DOCUMENTS, len(expected))
    manifest = Manifest.load(result.pairs[0])
    assert manifest is not None
    num_parts = 1 if form == "gz" else 2  # such regular text decompresses to one batch
    assert f"; 1 of {num_parts} parts: tokenizers" in manifest.encoder
