"""Local pairs: reading, and rejection of invalid files before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.retrieval.pairs import Retrieval, hold_out
from tests.evaluation.suites.retrieval import tiny

TRAIN, TEST = tiny.draw_pairs(100, 1), tiny.draw_pairs(8, 2)


def test_documents_are_distinct() -> None:
    pairs = [("one", "a"), ("two", "b"), ("one", "c"), ("three", "b"), ("one", "a")]
    retrieval = Retrieval.of_pairs(pairs, ["c", "d", "d"])
    assert retrieval == Retrieval(["one", "two", "three"], ["a", "b", "c", "d"], [[0, 2], [1], [1]])


def test_at_most_a_tenth_is_held_out() -> None:
    pairs = [(f"query {n}", f"answer {n}") for n in range(200)]
    for requested, expected in ((1000, 20), (20, 20), (7, 7)):
        train, held_out = hold_out(pairs, requested)
        assert (len(train), len(held_out)) == (200 - expected, expected)
        assert sorted(train + held_out) == sorted(pairs)
        assert hold_out(pairs, requested) == (train, held_out)
    assert held_out != pairs[:7]


def test_settings_contain_what_a_result_depends_on(tmp_path: Path) -> None:
    def settings(**flags: Any) -> Any:
        return json.loads(json.dumps(dict(tiny.build_task(tmp_path, **flags).settings)))

    tiny.write_task(tmp_path / "retrieval" / "words", train=TRAIN, test=[TRAIN[0], *TEST])
    first = settings()
    assert (first["train_pairs"], first["held_out_pairs"], first["queries"]) == (90, 10, 9)
    assert first["queries_seen_in_training"] == 1
    assert settings() == first
    assert settings(mini_batch=8) == first  # memory only
    assert settings(epochs=5) != first
    tiny.write_task(tmp_path / "retrieval" / "words", train=TRAIN, test=[TRAIN[1], *TEST])
    assert settings()["data_checksum"] != first["data_checksum"]


def test_tasks_are_selected_by_name(tmp_path: Path) -> None:
    for name in ("code", "words"):
        tiny.write_task(tmp_path / "retrieval" / name, train=TRAIN, test=TEST)
    assert [task.name for task in tiny.build_tasks(tmp_path)] == ["code", "words"]
    assert [task.name for task in tiny.build_tasks(tmp_path, tasks=["words"])] == ["words"]
    with pytest.raises(ConfigError, match=r"--tasks word: .* did you mean words\?"):
        tiny.build_tasks(tmp_path, tasks=["word"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.jsonl", '{"query": "a"}\n', "train.jsonl:1: has no 'positive', only 'query'"),
        ("test.jsonl", '\n{"question": "a", "positive": "b"}\n', "test.jsonl:2: has no 'query', only 'question', 'po"),
        ("test.jsonl", '{"query": 3, "positive": "b"}\n', "test.jsonl:1: query must be a string, and is 3"),
        ("test.jsonl", '["query"]\n', "test.jsonl:1: is not a JSON object"),
        ("test.jsonl", '{"query": "a", \n', "test.jsonl:1: is not JSON"),
        ("test.jsonl", "", "test.jsonl: is empty"),
        ("test.jsonl", '{"query": "a", "positive": "b"}\n', "test.jsonl: has 1 distinct document"),
        ("distractors.jsonl", '{"positive": "b"}\n', "distractors.jsonl:1: has no 'text', only 'positive'"),
    ],
)
def test_invalid_files_are_rejected(name: str, text: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "retrieval" / "words"
    tiny.write_task(folder, train=TRAIN, test=TEST)
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        tiny.build_task(tmp_path)


@pytest.mark.parametrize("missing", ["train.jsonl", "test.jsonl"])
def test_missing_files_are_rejected(missing: str, tmp_path: Path) -> None:
    folder = tmp_path / "retrieval" / "words"
    tiny.write_task(folder, train=TRAIN, test=TEST)
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=f"words: has no {missing}"):
        tiny.build_task(tmp_path)
    with pytest.raises(ConfigError, match="has no folder retrieval"):
        tiny.build_task(folder)


def test_too_few_pairs_are_rejected(tmp_path: Path) -> None:
    tiny.write_task(tmp_path / "retrieval" / "words", train=TRAIN, test=TEST)
    distinct = min(len(set(side)) for side in zip(*tiny.build_task(tmp_path).data.training.train_pairs, strict=True))
    assert 80 < distinct <= 90  # 10 are held out
    assert tiny.build_task(tmp_path, batch_pairs=distinct)
    message = rf"^--retrieval-batch-pairs {distinct + 1}: .* has {distinct} distinct training pairs, with 10 held out"
    with pytest.raises(ConfigError, match=message):
        tiny.build_task(tmp_path, batch_pairs=distinct + 1)
    # Repeated answers cannot fill a step, which contains each text once.
    repeated = [(query, f"answer {n % 5}") for n, (query, _) in enumerate(TRAIN)]
    tiny.write_task(tmp_path / "retrieval" / "words", train=repeated, test=TEST)
    with pytest.raises(ConfigError, match="has 5 distinct training pairs"):
        tiny.build_task(tmp_path, batch_pairs=8)
    tiny.write_task(tmp_path / "retrieval" / "words", train=TRAIN[:12], test=TEST)
    assert tiny.build_task(tmp_path, batch_pairs=4)
    with pytest.raises(ConfigError, match=r"^--retrieval-learning-rates: the 11 pairs of .* too few to hold a tenth"):
        tiny.build_task(tmp_path, batch_pairs=4, learning_rates=(1e-3, 1e-2))


def test_duplicate_rates_and_seeds_are_rejected(tmp_path: Path) -> None:
    tiny.write_task(tmp_path / "retrieval" / "words", train=TRAIN, test=TEST)
    with pytest.raises(ConfigError, match=r"--retrieval-learning-rates 0\.001 0\.001: must be one or more different"):
        tiny.build_task(tmp_path, learning_rates=(1e-3, 1e-3))
    with pytest.raises(ConfigError, match="--seeds 1 1: must be one or more different"):
        tiny.build_task(tmp_path, seeds=(1, 1))


def test_default_batch_is_that_of_the_paper(tmp_path: Path) -> None:
    from megatron_ettin.evaluation.suites.retrieval.suite import SUITE

    tiny.write_task(tmp_path / "retrieval" / "words", train=TRAIN, test=TEST)
    with pytest.raises(ConfigError, match=r"^--retrieval-batch-pairs 1024: "):
        SUITE.build_tasks(SuiteOptions(tmp_path))
