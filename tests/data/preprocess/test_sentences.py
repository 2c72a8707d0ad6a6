"""Sentence splitting: Punkt trained on the corpus, saved and loaded; errors name the command to run."""

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


def test_splits_like_nltk(model: str) -> None:
    trainer = PunktTrainer()
    for text in TEXTS:
        trainer.train(text, finalize=False)
    trainer.finalize_training()
    expected = PunktSentenceTokenizer(trainer.get_params()).tokenize(TEXTS[3])
    assert load_splitter(model, "english", keep_newlines=False).split(TEXTS[3]) == expected
    assert expected[1] == "They spoke of e.g. trees!"


def test_keep_newlines_keeps_white_space_after_the_same_sentences(model: str) -> None:
    plain = load_splitter(model, "english", keep_newlines=False)
    kept = load_splitter(model, "english", keep_newlines=True)
    text = "Was it?\n\n  Yes. They came\tlate.\n"
    assert kept.split(text) == ["Was it?\n\n  ", "Yes. ", "They came\tlate."]
    assert [sentence.rstrip() for sentence in kept.split(text)] == plain.split(text)


def test_long_texts_are_cut_first(model: str) -> None:
    sentences = load_splitter(model, "english", keep_newlines=False).split("x" * 2_500_000)
    assert [len(sentence) for sentence in sentences] == [1_000_000, 1_000_000, 500_000]


def test_errors_name_the_command_to_run(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"--punkt-model .*none: there is no .*punkt\.json; run the command with --train-punkt"
    ):
        load_splitter(str(tmp_path / "none"), "english", keep_newlines=False)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"--lang english here; add --train-punkt to train one on the input"):
        load_splitter("", "english", keep_newlines=False)
    (tmp_path / "punkt.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"is not a Punkt model that --train-punkt saved"):
        load_splitter(str(tmp_path), "english", keep_newlines=False)
    with pytest.raises(ConfigError, match=r"--train-punkt: the input has no text"):
        train_punkt([], str(tmp_path / "new"))
