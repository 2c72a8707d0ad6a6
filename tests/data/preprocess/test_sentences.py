"""Sentences: Punkt learned on the corpus, saved and loaded; what is missing is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer

from megatron_ettin.data.preprocess.sentences import load_splitter, train_punkt
from megatron_ettin.errors import ConfigError

TEXTS = [
    f"Dr. Weber met Mr. No. {i} at 3.14 p.m. yesterday.  They spoke of e.g. trees!\n\n(It was late.) Was it? Yes."
    for i in range(60)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("punkt") / "model"
    train_punkt(TEXTS, str(folder))
    return str(folder)


def test_splits_as_nltk_does(model: str) -> None:
    trainer = PunktTrainer()
    for text in TEXTS:
        trainer.train(text, finalize=False)
    trainer.finalize_training()
    expected = PunktSentenceTokenizer(trainer.get_params()).tokenize(TEXTS[3])
    assert load_splitter(model, "english", keep_newlines=False).split(TEXTS[3]) == expected
    assert expected[1] == "They spoke of e.g. trees!"


def test_kept_newlines_are_at_the_ends_of_the_same_sentences(model: str) -> None:
    plain = load_splitter(model, "english", keep_newlines=False)
    kept = load_splitter(model, "english", keep_newlines=True)
    text = "Was it?\n\n  Yes. They came\tlate.\n"
    assert kept.split(text) == ["Was it?\n\n  ", "Yes. ", "They came\tlate."]
    assert [sentence.rstrip() for sentence in kept.split(text)] == plain.split(text)


def test_long_texts_are_cut_first(model: str) -> None:
    found = load_splitter(model, "english", keep_newlines=False).split("x" * 2_500_000)
    assert [len(part) for part in found] == [1_000_000, 1_000_000, 500_000]


def test_what_is_missing_says_what_to_run(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"--punkt-model .*none: there is no .*punkt\.json; the same command with --tr"
    ):
        load_splitter(str(tmp_path / "none"), "english", keep_newlines=False)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(
        ConfigError, match=r"--lang english here; learn one on the input by adding --train-punkt to this"
    ):
        load_splitter("", "english", keep_newlines=False)
    (tmp_path / "punkt.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"is no Punkt model of ours"):
        load_splitter(str(tmp_path), "english", keep_newlines=False)
    with pytest.raises(ConfigError, match=r"--train-punkt: the input holds no text"):
        train_punkt([], str(tmp_path / "new"))
