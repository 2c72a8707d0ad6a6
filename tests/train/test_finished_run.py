"""A finished run is read without megatron-core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.checkpoint.folder.integrity import mark_complete
from megatron_ettin.checkpoint.folder.layout import RUN_FILE, TOKENIZER_FOLDER, step_folder_name
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import write_json_atomic
from megatron_ettin.train.finished_run import FinishedRun
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.runs import TINY, tiny_run

CLS, SEP = 1, 2
DOCUMENTS = babble(20, TINY.vocab_size)


@pytest.fixture
def save(tmp_path: Path, objective: str) -> Path:
    """The folder of a run, without weights."""
    folder = tmp_path / "run" / step_folder_name(7)
    write_word_tokenizer(folder / TOKENIZER_FOLDER, [f"word{i}" for i in range(TINY.vocab_size - 5)])
    data_path = write_corpus(tmp_path / "corpus", [document.tolist() for document in DOCUMENTS])
    config = tiny_run(objective, data_path=data_path, split="75,25,0", seq_length=64)
    write_json_atomic(folder / RUN_FILE, {"format_version": 1, "step": 7, "config": config.to_dict()})
    mark_complete(folder)
    return tmp_path / "run"


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_validation_split_is_complete(objective: str, save: Path) -> None:
    run = FinishedRun.open(save)
    chunks, batch = run.validation_split()
    assert (run.objective, run.checkpoint) == (objective, save / step_folder_name(7))

    by_place = {(chunk.document, chunk.index): chunk.tokens for chunk in chunks}
    for document in range(15, 20):
        parts = [by_place[place] for place in sorted(by_place) if place[0] == document]
        assert np.concatenate(parts).tolist() == DOCUMENTS[document].tolist()
    assert {document for document, _ in by_place} == set(range(15, 20))

    content = sum(len(document) for document in DOCUMENTS[15:])
    # A decoder scores every token and the end of every document, an encoder about 15%, at least one per chunk.
    expected = content + 5 if objective == "clm" else pytest.approx(0.15 * content, abs=0.06 * content)
    assert len(batch.scored_K) == expected
    assert (batch.tokens_T == CLS).sum() == len(chunks)
    assert (batch.tokens_T == SEP).sum() == (5 if objective == "clm" else len(chunks))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no complete checkpoint"):
        FinishedRun.open(tmp_path)
