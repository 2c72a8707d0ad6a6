"""Bits per byte against the bytes of the text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.data.rows import EvaluationRows, evaluation_rows
from megatron_ettin.objectives.objective import build_objective
from megatron_ettin.train.validate import bits_per_byte, count_scored_bytes
from tests.helpers.corpora import write_byte_tokenizer, write_corpus, write_word_tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import launch
from tests.helpers.runs import TINY, tiny_run, with_overrides

TEXTS = [
    "The cat sat on the mat. " * 12,
    "It's 12\u00b0 outside \u2014 na\u00efve caf\u00e9\u2026 \u4f60\u597d\u3002 \U0001f600\ttab end",
    "one two three four five six seven " * 9,
]


class Encoded:
    """A tokenizer of 320 tokens and the texts as a corpus."""

    def __init__(self, folder: Path) -> None:
        save_tokenizer(train_tokenizer(TEXTS * 3, 320), folder)
        self.files = TokenizerFiles.load(folder)
        self.encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = [self.encoder.encode(text, add_special_tokens=False).ids for text in TEXTS]
        self.prefix = write_corpus(folder / "corpus", ids)

    def rows(self) -> list[EvaluationRows]:
        """Return all documents in rows of 64 positions."""
        documents = range(len(TEXTS))
        return [evaluation_rows(IndexedTokens(self.prefix), documents, 64, sep_id=self.files.sep_id)]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return Encoded(tmp_path_factory.mktemp("bytes"))


def test_clm_scores_every_byte_of_the_text_once(encoded: Encoded) -> None:
    objective = build_objective(tiny_run("clm"), encoded.files)
    assert count_scored_bytes(objective, encoded.rows(), encoded.files) == sum(len(text.encode()) for text in TEXTS)


def test_mlm_counts_the_bytes_of_masked_tokens(encoded: Encoded) -> None:
    objective = build_objective(tiny_run("mlm", eval_mlm_probability=0.15), encoded.files)
    rows = encoded.rows()
    labels = [int(label) for row in rows[0] for label in objective.eval_batch([row]).labels_K]
    # One character of the byte-level alphabet encodes one byte.
    assert count_scored_bytes(objective, rows, encoded.files) == sum(
        len(str(encoded.encoder.id_to_token(i))) for i in labels
    )
    everything = build_objective(tiny_run("mlm", eval_mlm_probability=1.0), encoded.files)
    assert count_scored_bytes(everything, rows, encoded.files) == sum(len(text.encode()) for text in TEXTS)


def test_a_uniform_guess_over_single_bytes_costs_eight_bits() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)
    assert bits_per_byte(12.5, None) is None


def test_a_word_tokenizer_has_no_bytes(tmp_path: Path) -> None:
    words = write_word_tokenizer(tmp_path, ["a", "b"])
    files = TokenizerFiles.load(words)
    prefix = write_corpus(tmp_path / "corpus", [[5, 6, 5]])
    rows = [evaluation_rows(IndexedTokens(prefix), range(1), 64, sep_id=files.sep_id)]
    assert count_scored_bytes(build_objective(tiny_run("clm"), files), rows, files) is None


@pytest.mark.parametrize("objective", ["clm", pytest.param("mlm", marks=pytest.mark.slow)])
def test_evaluation_is_the_same_in_every_layout(tmp_path: Path, objective: str) -> None:
    """With one token per byte, the loss in nats is ln 2 times the bits per byte, except for the ends of documents."""
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    size = TokenizerFiles.load(tokenizer).size
    rng = np.random.default_rng(5)
    documents = [rng.integers(5, size, length).tolist() for length in rng.integers(5, 150, 40)]
    shape: dict[str, Any] = {"model": with_overrides(tiny_run(objective), vocab_size=size).model}
    assert shape["model"].hidden_size == TINY.hidden_size
    places: dict[str, Any] = {
        "data_path": write_corpus(tmp_path / "corpus", documents),
        "tokenizer_model": str(tokenizer),
    }
    small: dict[str, Any] = {"micro_batch_size": 2, "global_batch_size": 4, "train_iters": 1, "split": "50,50,0"}
    save = str(tmp_path / "run")
    run_ranks(2, launch, tiny_run(objective, **shape, **places, **small, save=save))
    reports = []
    split: dict[str, Any] = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}
    for world, layout in ((1, {}), (2, {}), (4, split)):
        config = tiny_run(objective, **shape, **places, **small, **layout, load=save, eval_only=True)
        reports.append(json.loads(run_ranks(world, launch, config)[0].splitlines()[-1]))
    first = reports[0]
    num_ends = first["scored_tokens"] - first["scored_bytes"]
    assert num_ends == (20 if objective == "clm" else 0), "the [SEP] of 20 documents is scored and encodes no byte"
    expected = first["validation_loss"] * first["scored_tokens"] / math.log(2) / first["scored_bytes"]
    for report in reports:
        assert report["scored_bytes"] == first["scored_bytes"]
        assert report["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
