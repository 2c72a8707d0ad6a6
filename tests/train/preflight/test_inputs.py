"""Damaged, empty and foreign corpora are refused before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.preprocess.run import preprocess
from megatron_ettin.data.preprocess.settings import PreprocessSettings
from megatron_ettin.errors import ConfigError
from megatron_ettin.train.preflight.inputs import check_corpus
from tests.helpers.corpora import write_corpus, write_word_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_word_tokenizer(tmp_path / "tokenizer", ["a", "b", "c"])


def check(prefix: str, tokenizer: Path, split: str = "1,0,0") -> None:
    values = {"data_path": prefix, "split": split, "tokenizer_model": str(tokenizer), "objective": "mlm"}
    check_corpus(RunConfig().with_values(values), TokenizerFiles.load(tokenizer))


@pytest.fixture
def corpus(tmp_path: Path, tokenizer: Path) -> str:
    """A corpus with a manifest."""
    (tmp_path / "c.jsonl").write_text('{"text": "a b"}\n{"text": ""}\n{"text": "c"}\n')
    settings = PreprocessSettings((str(tmp_path / "c.jsonl"),), str(tmp_path / "c"), str(tokenizer))
    return preprocess(settings).pairs[0]


def test_a_valid_corpus_passes(corpus: str, tokenizer: Path) -> None:
    check(corpus, tokenizer)


def test_a_truncated_corpus_is_refused(corpus: str, tokenizer: Path) -> None:
    tokens = Path(f"{corpus}.bin")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(ConfigError, match=r"c_text_document\.bin has 4 bytes, its index says 6"):
        check(corpus, tokenizer)


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path: Path, corpus: str, tokenizer: Path) -> None:
    other = write_word_tokenizer(tmp_path / "other", ["b", "a", "c"])
    with pytest.raises(ConfigError, match=r"--data-path .*: was written with another tokenizer than --tokenizer-model"):
        check(corpus, other)
    Path(f"{corpus}.manifest.json").unlink()  # other tools write none
    check(corpus, other)


def test_a_tokenizer_with_the_same_encoding_is_accepted(corpus: str, tokenizer: Path) -> None:
    file = tokenizer / "tokenizer.json"
    processor = '"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}'
    file.write_text(file.read_text().replace('"post_processor": null', processor))
    check(corpus, tokenizer)


def test_a_requested_source_without_training_documents_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    large, small = write_corpus(tmp_path / "large", [[5, 6]] * 9), write_corpus(tmp_path / "small", [[5, 6]])
    message = r"--split 1,2,0: leaves no document for training out of the 1 of .*small, which --data-path gives a share"
    for blend in (f"0.9 {large} 1e-9 {small}", f"9K {large} 1K {small}"):
        with pytest.raises(ConfigError, match=message):
            check(blend, tokenizer, "1,2,0")
    check(f"{large} {small}", tokenizer, "1,2,0")


@pytest.mark.parametrize("documents", [[[], []], [[2], []], [[], [2], [5, 6]]])
def test_a_corpus_without_content_is_refused(tmp_path: Path, tokenizer: Path, documents: list[list[int]]) -> None:
    prefix = write_corpus(tmp_path / "empty", documents)
    split = "2,1,0" if len(documents) == 3 else "1,0,0"
    with pytest.raises(ConfigError, match=r"--data-path .*empty: all 2 documents for training are empty"):
        check(prefix, tokenizer, split)
    write_corpus(tmp_path / "empty", [*documents, np.array([5])])
    check(prefix, tokenizer)
