"""Trials: embedders trained at each learning rate and seed, cached on disk so that none is trained twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.suite import TaskRun
from megatron_ettin.evaluation.suites.fine_tuning import RateSelection
from megatron_ettin.evaluation.suites.retrieval.pairs import Retrieval
from megatron_ettin.evaluation.suites.retrieval.protocol import POOLING, RetrievalProtocol
from megatron_ettin.evaluation.suites.retrieval.ranking import METRICS, mean_scores, score_all

_ABOUT_FILE = "about.json"
_MODEL_FOLDER = "model"
_LIBRARIES = ("sentence-transformers", "transformers", "torch")


class TrainingData(Protocol):
    """Training data of embedders."""

    @property
    def checksum(self) -> str:
        """Checksum of the content, or the revision that identifies it."""

    def load_train(self) -> Any:
        """Return a ``datasets.Dataset`` of queries, positives and, optionally, negatives."""

    def load_held_out(self) -> Retrieval:
        """Return the data that select the learning rate."""


class Trials:
    """The trials of one model on one set of training data.

    Each trial has a folder, named by everything that it depends on: KEY/model is a sentence-transformers folder,
    KEY/about.json describes it and has its scores on the held-out pairs. The folder appears when it is complete.
    """

    def __init__(self, subject: Subject, data: TrainingData, protocol: RetrievalProtocol, run: TaskRun) -> None:
        """Plan one trial per rate with the first seed, then one per further seed at the selected rate."""
        self._subject, self._data, self._protocol, self._run = subject, data, protocol, run

    def select_rate(self) -> RateSelection:
        """Train at every rate with the first seed and select by nDCG@10 on the held-out pairs."""
        first = self._protocol.seeds[0]
        selection = RateSelection({rate: self._held_out_score(rate, first) for rate in self._protocol.learning_rates})
        for rate in selection.scores:
            if rate != selection.best:
                self.delete_weights(rate, first)
        return selection

    def trained(self, rate: float, seed: int) -> Path:
        """Return the folder of a trained embedder, which is trained unless it exists."""
        folder = self._folder(rate, seed)
        if not (folder / _MODEL_FOLDER).is_dir():
            self._train(folder, rate, seed)
        return folder / _MODEL_FOLDER

    def delete_weights(self, rate: float, seed: int) -> None:
        """Delete a trained embedder, and keep its scores."""
        shutil.rmtree(self._folder(rate, seed) / _MODEL_FOLDER, ignore_errors=True)

    def details(self, selection: RateSelection) -> dict[str, Any]:
        """Return the details of a result that describe how its embedders were trained."""
        return {**selection.as_details(), "pooling": POOLING[self._subject.is_encoder]}

    def _held_out_score(self, rate: float, seed: int) -> float | None:
        about = self._folder(rate, seed) / _ABOUT_FILE
        if not about.is_file():
            self.trained(rate, seed)
        scores: dict[str, float] = json.loads(about.read_text(encoding="utf-8"))["held_out"]
        return scores.get(METRICS[0])

    def _train(self, folder: Path, rate: float, seed: int) -> None:
        from megatron_ettin.evaluation.suites.retrieval.embedder import build_embedder, fine_tune, rank_all

        number, num_trials = self._position(rate, seed)

        def progress(step: int, steps: int) -> None:
            self._run.progress(f"learning rate {rate:g}, seed {seed}", number * steps + step, num_trials * steps)

        embedder = build_embedder(self._subject, self._protocol)
        train = self._data.load_train()
        fine_tune(embedder, train, self._protocol, learning_rate=rate, seed=seed, progress=progress)
        partial = folder.with_name(f"{folder.name}.partial")
        for leftover in (partial, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        embedder.save(str(partial / _MODEL_FOLDER), create_model_card=False)
        held_out = self._data.load_held_out()
        scores = mean_scores(score_all(rank_all(embedder, held_out, self._protocol))) if held_out.queries else {}
        about = self._basis(rate, seed) | {"model": self._subject.given, "held_out": scores}
        (partial / _ABOUT_FILE).write_text(json.dumps(about, indent=1), encoding="utf-8")
        partial.rename(folder)

    def _position(self, rate: float, seed: int) -> tuple[int, int]:
        """Return the index of a trial among the planned ones, from 0, and their number."""
        rates, seeds = list(self._protocol.learning_rates), list(self._protocol.seeds)
        number = rates.index(rate) if seed == seeds[0] else len(rates) + seeds.index(seed) - 1
        return number, len(rates) + len(seeds) - 1

    def _folder(self, rate: float, seed: int) -> Path:
        digest = hashlib.sha256(json.dumps(self._basis(rate, seed), sort_keys=True).encode()).hexdigest()[:12]
        return self._run.folder / f"lr_{rate:g}-seed_{seed}-{digest}"

    def _basis(self, rate: float, seed: int) -> dict[str, Any]:
        """Return everything that a trained embedder depends on."""
        return {
            "model_checksum": self._subject.checksum,
            "pooling": POOLING[self._subject.is_encoder],
            "data_checksum": self._data.checksum,
            "protocol": self._protocol.training_as_dict(),
            "learning_rate": rate,
            "seed": seed,
            "versions": {library: version(library) for library in _LIBRARIES},
        }
