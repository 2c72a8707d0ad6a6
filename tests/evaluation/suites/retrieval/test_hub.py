"""Training triplets read by ``datasets``; the Hub itself is never contacted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.retrieval.hub import TRAIN_DATA, HubTraining

pytestmark = pytest.mark.slow  # needs the extra [eval]


def write_rows(folder: Path, rows: Sequence[Mapping[str, str]]) -> str:
    """Write a data set that ``datasets`` loads by the path of its folder as it would by a name on the Hub."""
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def triplets(num_rows: int) -> list[dict[str, str]]:
    return [{"id": str(n), "negative": f"no {n}", "query": f"q {n}", "positive": f"yes {n}"} for n in range(num_rows)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_rows_are_held_out_before_the_limit_applies(tmp_path: Path) -> None:
    name = write_rows(tmp_path / "triplets", triplets(50))
    training = HubTraining(name, num_rows=30, num_held_out=10, batch_pairs=8)
    training.check()
    train, held_out = training.load_train(), training.load_held_out()
    assert train.column_names == ["query", "positive", "negative"]  # the order that the loss expects
    assert len(train) == 30
    assert len(held_out.queries) == 10
    assert not set(held_out.queries) & set(train["query"])
    # The documents to rank are the positives and the negatives of all held-out queries.
    for query, relevant in zip(held_out.queries, held_out.relevant, strict=True):
        assert [held_out.documents[index] for index in relevant] == [query.replace("q", "yes")]
    numbers = {query.split()[1] for query in held_out.queries}
    assert set(held_out.documents) == {f"{what} {number}" for what in ("yes", "no") for number in numbers}
    again = HubTraining(name, num_rows=30, num_held_out=10, batch_pairs=8)
    assert again.load_held_out() == held_out
    assert again.checksum == training.checksum
    assert HubTraining(name, num_rows=29, num_held_out=10, batch_pairs=8).checksum != training.checksum


@pytest.mark.parametrize("missing", ["query", "positive"])
def test_missing_column_is_rejected(missing: str, tmp_path: Path) -> None:
    rows = [{column: text for column, text in row.items() if column != missing} for row in triplets(50)]
    training = HubTraining(write_rows(tmp_path / "triplets", rows), num_rows=30, num_held_out=10, batch_pairs=8)
    with pytest.raises(ConfigError, match=rf"^--retrieval-train-data \S+: has no column {missing}.*, only id, neg"):
        training.load_train()


def test_too_few_rows_are_rejected(tmp_path: Path) -> None:
    name = write_rows(tmp_path / "triplets", triplets(50))
    with pytest.raises(ConfigError, match=r"^--retrieval-train-rows 7: must be at least --retrieval-batch-pairs, 8$"):
        HubTraining(name, num_rows=7, num_held_out=10, batch_pairs=8).check()
    with pytest.raises(ConfigError, match=r"has 50 rows, 45 held out: must be at least --retrieval-batch-pairs, 8$"):
        HubTraining(name, num_rows=30, num_held_out=45, batch_pairs=8).load_train()


def test_missing_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as caught:
        HubTraining(TRAIN_DATA, num_rows=30, num_held_out=10, batch_pairs=8).check()
    message = str(caught.value)
    assert message.startswith(f"--retrieval-train-data {TRAIN_DATA}: cannot be loaded from the Hub (")
    assert message.endswith("; local files are given by --data")
    assert "\n" not in message
