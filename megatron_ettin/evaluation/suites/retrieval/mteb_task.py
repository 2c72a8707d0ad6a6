"""Tasks of mteb, evaluated with embedders that are trained on triplets of the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import TaskResult
from megatron_ettin.evaluation.suite import TaskRun
from megatron_ettin.evaluation.suites.retrieval.protocol import RetrievalProtocol
from megatron_ettin.evaluation.suites.retrieval.ranking import result_of_queries, result_of_scores
from megatron_ettin.evaluation.suites.retrieval.trials import TrainingData, Trials
from megatron_ettin.evaluation.task_data import ask_hub

QUERY_METRICS: Mapping[str, str] = {
    "ndcg_at_10": "ndcg_cut_10",
    "recall_at_10": "recall_10",
    "map_at_10": "map_cut_10",
}
"""mteb's metric name -> the name in pytrec_eval's per-query scores."""


@dataclass(frozen=True)
class MtebTask:
    """A task of mteb: retrieval, or another type that a benchmark contains."""

    task: Any
    """An ``mteb.AbsTask``."""
    training: TrainingData
    protocol: RetrievalProtocol
    is_local: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Mteb's name of the task."""
        return str(self.task.metadata.name)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Training data, test data and protocol."""
        source = self.task.metadata.dataset
        return {
            "training_data": self.training.checksum,
            "data": source.get("path"),
            "data_revision": source.get("revision"),
            "splits": list(self.task.eval_splits),
            "subsets": list(self.task.hf_subsets),
            "metric": self.task.metadata.main_score,
            "protocol": self.protocol.as_dict(),
        }

    def check(self, subject: Subject) -> None:
        """Raise ConfigError if the model cannot embed texts of the protocol's length."""
        from megatron_ettin.evaluation.suites.retrieval.embedder import check_embeddable

        check_embeddable(subject, self.protocol.max_length)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Train over the grid, select on held-out training rows, and let mteb evaluate the embedder of each seed.

        The embedders are kept and shared by all tasks of mteb.
        """
        trials = Trials(subject, self.training, self.protocol, run)
        selection = trials.select_rate()
        by_seed = [
            run.parts.get_or_compute(f"seed_{seed}", partial(self._evaluate, trials, selection.best, seed))
            for seed in self.protocol.seeds
        ]
        main, details = self.task.metadata.main_score, trials.details(selection)
        if all(main in scores["queries"] for scores in by_seed):
            return result_of_queries([scores["queries"] for scores in by_seed], main, details)
        return result_of_scores([scores["score"] for scores in by_seed], main, details)

    def _evaluate(self, trials: Trials, rate: float, seed: int) -> dict[str, Any]:
        """Return the task's score and, where available, the scores of single queries."""
        import mteb

        from megatron_ettin.evaluation.suites.retrieval.embedder import load_embedder

        embedder = load_embedder(trials.trained(rate, seed), self.protocol)
        options: dict[str, Any] = {"batch_size": self.protocol.batch_size, "show_progress_bar": False}
        query_scores = _QueryScores(self.task)
        ask_hub(lambda: self.task.load_data(), f"--tasks {self.name}:")
        try:
            results = mteb.evaluate(
                embedder, self.task, encode_kwargs=options, cache=None, co2_tracker=False, show_progress_bar=False
            )
        finally:
            self.task.unload_data()
            query_scores.close()
        return {"score": float(results.task_results[0].get_score()), "queries": query_scores.by_metric()}


class _QueryScores:
    """Records the scores of single queries, which mteb's results leave out.

    mteb passes them to the task's method ``task_specific_scores``, a hook for subclasses.
    """

    def __init__(self, task: Any) -> None:
        """Wrap the method of a task; tasks that are not retrieval do not have it."""
        self._task = task
        self._recorded: list[Mapping[str, Mapping[str, float]]] = []
        original = getattr(task, "task_specific_scores", None)
        if original is None:
            return

        def record(scores: Mapping[str, Mapping[str, float]], *arguments: Any, **named: Any) -> Any:
            self._recorded.append(scores)
            return original(scores, *arguments, **named)

        task.task_specific_scores = record

    def close(self) -> None:
        """Restore the task's own method."""
        vars(self._task).pop("task_specific_scores", None)

    def by_metric(self) -> dict[str, list[float]]:
        """Return by metric the scores of all queries, sorted by query id.

        Empty with several splits or subsets, since the score of the task is then a mean of their scores and not a mean
        over queries.
        """
        if len(self._recorded) != 1:
            return {}
        (scores,) = self._recorded
        return {
            metric: [scores[query][name] for query in sorted(scores)]
            for metric, name in QUERY_METRICS.items()
            if all(name in of_query for of_query in scores.values())
        }
