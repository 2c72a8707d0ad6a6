"""Trained embedders evaluated by mteb, on a task of mteb's classes that does not need the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.retrieval.hub import HubTraining, find_mteb_tasks
from megatron_ettin.evaluation.suites.retrieval.mteb_task import MtebTask
from megatron_ettin.evaluation.suites.retrieval.protocol import RetrievalProtocol
from megatron_ettin.evaluation.suites.retrieval.trials import Trials
from tests.evaluation.suites.classification.tiny import MemoryCache
from tests.evaluation.suites.retrieval import tiny
from tests.evaluation.suites.retrieval.test_hub import write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # mteb takes half a minute to import
TRAIN, TEST = tiny.draw_pairs(300, 1), tiny.draw_pairs(40, 2)


def words_task() -> Any:
    """Return a retrieval task of mteb over the tiny pairs."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Words(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Words", description="pairs that share rare words", type="Retrieval", eval_splits=["test"],
            eval_langs=["eng-Latn"], main_score="ndcg_at_10", dataset={"path": "none/none", "revision": "one"},
        )  # fmt: skip

        data_loaded = False

        def load_data(self, *_: Any, **__: Any) -> None:
            if self.data_loaded:
                return
            self.corpus = {"test": {f"d{n}": {"text": text} for n, (_, text) in enumerate(TEST)}}
            self.queries = {"test": {f"q{n}": text for n, (text, _) in enumerate(TEST)}}
            self.relevant_docs = {"test": {f"q{n}": {f"d{n}": 1} for n in range(len(TEST))}}
            self.data_loaded = True

    return Words()


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubTraining:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"query": query, "positive": positive} for query, positive in TRAIN]
    return HubTraining(write_rows(tmp_path / "triplets", rows), num_rows=250, num_held_out=30, batch_pairs=32)


PROTOCOL = RetrievalProtocol(
    learning_rates=(1e-2,), epochs=6, batch_pairs=32, mini_batch=32, max_length=32, held_out=30, seeds=(1, 2)
)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_scores_match_mteb(kind: str, training: HubTraining, tmp_path: Path) -> None:
    import mteb

    from megatron_ettin.evaluation.suites.retrieval.embedder import load_embedder

    subject, task = tiny.release(kind, tmp_path / kind), MtebTask(words_task(), training, PROTOCOL)
    task.check(subject)
    config = tiny.task_run(tmp_path / "trained")
    result = task.run(subject, config)
    assert (task.name, result.main, task.is_local) == ("Words", "ndcg_at_10", False)
    assert result.main_measure.low > 0.4
    assert len(result.items["ndcg_at_10"]) == len(TEST)

    scores = []
    for seed in PROTOCOL.seeds:
        folder = Trials(subject, training, PROTOCOL, config).trained(1e-2, seed)
        result_of_seed = mteb.evaluate(
            load_embedder(folder, PROTOCOL), words_task(), cache=None, show_progress_bar=False
        )
        scores.append(result_of_seed.task_results[0].get_score())
    assert result.main_measure.value == pytest.approx(np.mean(scores), abs=1e-5)
    assert result.details["seed_scores"] == pytest.approx(scores, abs=1e-5)


def test_tasks_share_their_embedders(training: HubTraining, tmp_path: Path) -> None:
    subject, cache = tiny.release("encoder", tmp_path / "encoder"), MemoryCache()
    updates: list[tuple[str, int, int]] = []
    first, second = (
        MtebTask(words_task(), training, PROTOCOL).run(subject, tiny.task_run(tmp_path / "trained", parts, updates))
        for parts in (cache, MemoryCache())
    )
    assert first == second
    assert len(updates) == len(set(updates))  # each step was trained once


def test_unknown_names_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^--tasks MSMARKO: mteb has no .*; did you mean MSMARCO\?"):
        find_mteb_tasks(["MSMARKO"])
    with pytest.raises(ConfigError, match=r"^--tasks MTEB\(eng, v9\): .*; did you mean MTEB\(eng, v\d\)\?"):
        find_mteb_tasks(["MTEB(eng, v9)"])


@pytest.mark.parametrize("names", [[], ["MTEB(eng, v2)"]])
def test_missing_network_is_one_line(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"^--tasks \w+: cannot be loaded from the Hub \(.*given by --data$"):
        find_mteb_tasks(names)
