"""One of mteb's tasks, put to embedders that learned from the hub's triplets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import TaskResult
from megatron_ettin.evaluation.suite import TaskRun
from megatron_ettin.evaluation.suites.retrieval.hub import ask_hub
from megatron_ettin.evaluation.suites.retrieval.protocol import Protocol
from megatron_ettin.evaluation.suites.retrieval.ranking import describe_choice, result_of_queries, result_of_scores
from megatron_ettin.evaluation.suites.retrieval.trials import TrainingData, Trials

QUERY_METRICS: Mapping[str, str] = {
    "ndcg_at_10": "ndcg_cut_10",
    "recall_at_10": "recall_10",
    "map_at_10": "map_cut_10",
}
"""By mteb's name, what mteb hears from pytrec_eval for every query."""


@dataclass(frozen=True)
class MtebTask:
    """A task of mteb: of retrieval, or of another type where a benchmark holds some."""

    task: Any
    """An ``mteb.AbsTask``."""
    training: TrainingData
    protocol: Protocol
    is_local: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """As mteb calls it."""
        return str(self.task.metadata.name)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What is learned from, what is ranked, and how."""
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
        """Refuse a model that cannot embed texts.

        Raises:
            ConfigError: transformers cannot load it, or its positions end before the longest text.
        """
        from megatron_ettin.evaluation.suites.retrieval.embedder import check_embeddable

        check_embeddable(subject, self.protocol.max_length)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Train over the grid, choose on held-out training rows alone, and let mteb judge the embedder of each seed.

        The embedders are kept: mteb's other tasks are put to the same ones.
        """
        trials = Trials(subject, self.training, self.protocol, run)
        choice = trials.choose()
        told = [
            run.memory.recall(f"seed_{seed}", partial(self._judge, trials, choice.best, seed))
            for seed in self.protocol.seeds
        ]
        main, details = self.task.metadata.main_score, describe_choice(choice, subject)
        if all(main in scores["queries"] for scores in told):
            return result_of_queries([scores["queries"] for scores in told], main, details)
        return result_of_scores([scores["score"] for scores in told], main, details)

    def _judge(self, trials: Trials, rate: float, seed: int) -> dict[str, Any]:
        """Return the task's score, and those of single queries where there are such."""
        import mteb

        from megatron_ettin.evaluation.suites.retrieval.embedder import load_embedder

        embedder = load_embedder(trials.trained(rate, seed), self.protocol)
        seen = _QueryScores(self.task)
        options: dict[str, Any] = {"batch_size": self.protocol.batch_size, "show_progress_bar": False}
        ask_hub(lambda: self.task.load_data(), f"--tasks {self.name}")
        try:
            told = mteb.evaluate(
                embedder, self.task, encode_kwargs=options, cache=None, co2_tracker=False, show_progress_bar=False
            )
        finally:
            self.task.unload_data()
            seen.close()
        return {"score": float(told.task_results[0].get_score()), "queries": seen.by_metric()}


class _QueryScores:
    """Listens to the scores of single queries, which mteb's results leave out.

    mteb hands them to a task's ``task_specific_scores``, which it means to be overridden.
    """

    def __init__(self, task: Any) -> None:
        """Listen to a task; one that is not of retrieval tells nothing."""
        self._task = task
        self._parts: list[Mapping[str, Mapping[str, float]]] = []
        own = getattr(task, "task_specific_scores", None)
        if own is None:
            return

        def listen(scores: Mapping[str, Mapping[str, float]], *arguments: Any, **named: Any) -> Any:
            self._parts.append(scores)
            return own(scores, *arguments, **named)

        task.task_specific_scores = listen

    def close(self) -> None:
        """Give the task its own method back."""
        vars(self._task).pop("task_specific_scores", None)

    def by_metric(self) -> dict[str, list[float]]:
        """Return by metric the scores of all queries in the order of their names.

        None where there are several splits or subsets, since a task's score is then the mean of theirs, and no mean
        over queries.
        """
        if len(self._parts) != 1:
            return {}
        (part,) = self._parts
        return {
            metric: [part[query][theirs] for query in sorted(part)]
            for metric, theirs in QUERY_METRICS.items()
            if all(theirs in scores for scores in part.values())
        }
