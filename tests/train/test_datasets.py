"""Notes on the corpora of a run: fill rate, chunks dropped, requested and actual shares of the sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.training_rows import TrainingRows
from megatron_ettin.data.validation_set import ValidationSet
from megatron_ettin.objectives.objective import build_objective
from megatron_ettin.train.datasets import (
    blend_notes,
    build_training_data,
    build_training_rows,
    build_validation_rows,
    first_validation_rows,
    open_corpus,
    row_notes,
    validation_limit,
)
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.runs import TINY, tiny_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of the same name in different folders."""
    folder = tmp_path_factory.mktemp("sources")
    for number, name in enumerate(("books", "web")):
        (folder / name).mkdir()
        write_corpus(folder / name / "text", babble(80, TINY.vocab_size, seed=number))
    write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(TINY.vocab_size - 5)])
    return folder


def make(folder: Path, data_path: str, **more: Any) -> tuple[RunConfig, TrainingRows]:
    config = tiny_run("mlm", data_path=data_path, tokenizer_model=str(folder / "tokenizer"), split="3,1", **more)
    return config, build_training_rows(config, open_corpus(config), TokenizerFiles.load(folder / "tokenizer"))


def test_fill_rate_and_dropped_chunks_are_reported(folder: Path) -> None:
    _, rows = make(folder, f"{folder}/books/text", chunk_skip_size=20, packing="none")
    chunks = [chunk for row in rows.rows(0, rows.num_rows) for chunk in row]
    documents = babble(80, TINY.vocab_size, seed=0)[:60]
    kept, total = sum(len(chunk.tokens) for chunk in chunks), sum(map(len, documents))
    remainders = [len(document) % 62 for document in documents]
    dropped = sum(len(d) > 62 and 0 < rest < 18 for d, rest in zip(documents, remainders, strict=True))
    assert dropped
    filled = (kept + 2 * len(chunks)) / (64 * len(chunks))
    assert row_notes(rows) == [
        f"{len(chunks)} rows in an epoch, {filled:.2%} filled",
        f"chunking dropped {dropped} short last chunks, {total - kept:,} tokens ({(total - kept) / total:.2%})",
    ]


NOTE = re.compile(r"(\S+): requested (.*) of the rows, gave ([\d,]+) \((.*)%\), (\S+) tokens \((.*)%\), (.*) epochs")


@pytest.mark.parametrize(("amounts", "requested"), [(("0.7", "0.3"), "70.0000%"), (("3M", "1M"), "3M tokens, ")])
def test_requested_and_actual_shares_of_each_source_are_reported(
    folder: Path, amounts: tuple[str, str], requested: str
) -> None:
    paths = [f"{folder}/{name}/text" for name in ("books", "web")]
    _, rows = make(folder, f"{amounts[0]} {paths[0]} {amounts[1]} {paths[1]}")
    notes = [NOTE.fullmatch(note) for note in blend_notes(rows, 500, close_every_chunk=True)]
    given = rows.rows(0, 500)
    tokens = np.bincount([row[0].source for row in given], [sum(len(p.tokens) + 2 for p in row) for row in given])
    for number, note in enumerate(notes):
        assert note is not None
        count = sum(row[0].source == number for row in given)
        assert note[1] == paths[number]
        assert (note[3], note[4]) == (str(count), f"{count / 5:.4f}")
        assert float(note[5].removesuffix("K")) * (1000 if note[5].endswith("K") else 1) == tokens[number]
        assert note[6] == f"{100 * tokens[number] / tokens.sum():.2f}"
        assert note[7] == f"{count / rows.sources[number].num_rows:.2f}"
    assert notes[0] is not None
    assert notes[0][2].startswith(requested)
    assert blend_notes(make(folder, paths[0])[1], 500, close_every_chunk=True) == []


def test_sources_of_the_same_name_get_distinct_names(folder: Path) -> None:
    run, rows = make(folder, f"{folder}/books/text {folder}/web/text")
    assert rows.names == {0: "text_0", 1: "text_1"}
    validation = build_validation_rows(run, open_corpus(run), TokenizerFiles.load(folder / "tokenizer"))
    assert [each.name for each in validation] == ["text_0", "text_1"]


def validation_set(folder: Path, objective: str = "mlm", **more: Any) -> ValidationSet:
    """The documents that a run validates on, of two sources with 20 documents each."""
    paths = f"{folder}/books/text {folder}/web/text"
    values = {"data_path": paths, "tokenizer_model": str(folder / "tokenizer"), "split": "3,1", **more}
    config = tiny_run(objective, **values)
    tokenizer = TokenizerFiles.load(folder / "tokenizer")
    return build_training_data(config, tokenizer, build_objective(config, tokenizer)).validation_set


def test_a_limited_validation_scores_the_same_documents_in_every_run(folder: Path) -> None:
    limited: dict[str, Any] = {"eval_iters": 0, "eval_tokens": 1000}
    expected = validation_set(folder, **limited)
    longest = 2 * 201  # the last document of each source may extend over the limit
    assert 1000 <= expected.tokens < 1000 + longest
    assert expected.documents < 40
    for more in (
        {"seed": 5},
        {"objective": "clm"},
        {"packing": "none", "chunk_skip_size": 20},
        {"seq_length": 32},
        {"micro_batch_size": 4, "global_batch_size": 32},
        {"mlm_probability": 0.5, "phase": "decay"},
    ):
        assert validation_set(folder, **{**limited, **more}) == expected, more
    whole = validation_set(folder, eval_iters=0)
    assert whole.documents == 40
    assert whole == validation_set(folder, eval_iters=0, eval_tokens=whole.tokens)
    assert whole == validation_set(folder, eval_iters=1000)
    assert whole.digest != expected.digest


def test_eval_iters_limits_the_positions_of_a_validation(folder: Path) -> None:
    rows: dict[str, Any] = {"eval_iters": 2, "global_batch_size": 4}
    assert validation_limit(tiny_run("mlm", **rows)) == 2 * 4 * 64
    assert validation_limit(tiny_run("mlm", eval_iters=2, global_batch_tokens=300)) == 600
    assert validation_limit(tiny_run("mlm", eval_iters=0)) == 0
    assert validation_set(folder, **rows) == validation_set(folder, eval_iters=0, eval_tokens=512)


def test_a_run_of_the_first_data_version_validates_on_the_first_rows(folder: Path) -> None:
    rows: dict[str, Any] = {"eval_iters": 2, "global_batch_size": 4, "data_version": 1}
    assert first_validation_rows(tiny_run("mlm", **rows)) == 8
    assert first_validation_rows(tiny_run("mlm", **{**rows, "global_batch_tokens": 300})) == 8
    assert first_validation_rows(tiny_run("mlm", **{**rows, "data_version": 2})) == 0
    assert validation_set(folder, **rows) == validation_set(folder, eval_iters=0), "rows of the whole split"
    limited: dict[str, Any] = {"eval_iters": 0, "eval_tokens": 1000}
    assert validation_set(folder, data_version=1, **limited) == validation_set(folder, **limited)
