"""Trials: embedders trained at each learning rate and seed, kept so that none is trained twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any
from typing import Protocol as TypingProtocol

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.rate_choice import RateChoice
from megatron_ettin.evaluation.suite import TaskRun
from megatron_ettin.evaluation.suites.retrieval.pairs import Retrieval
from megatron_ettin.evaluation.suites.retrieval.protocol import POOLING, Protocol
from megatron_ettin.evaluation.suites.retrieval.ranking import METRICS, mean_scores, score_all

_ABOUT_FILE = "about.json"
_MODEL_FOLDER = "model"
_LIBRARIES = ("sentence-transformers", "transformers", "torch")


class TrainingData(TypingProtocol):
    """What embedders learn from."""

    @property
    def checksum(self) -> str:
        """Of everything in it, or the revision that names it."""

    def load_train(self) -> Any:
        """Return a ``datasets.Dataset`` of queries, documents that answer them, and documents that do not."""

    def load_held_out(self) -> Retrieval:
        """Return what the learning rate is chosen on."""


class Trials:
    """The trials of one model on one set of training data.

    Each lies in a folder of its own, named by all that it depends on: KEY/model is a sentence-transformers folder,
    KEY/about.json says what it is and how it did on the held-out pairs. It appears when it is whole.
    """

    def __init__(self, subject: Subject, data: TrainingData, protocol: Protocol, run: TaskRun) -> None:
        """Plan the trials: every rate with the first seed, then the chosen rate with the others."""
        self._subject, self._data, self._protocol, self._config = subject, data, protocol, run

    def choose(self) -> RateChoice:
        """Train at every rate with the first seed and choose by nDCG@10 on the held-out pairs."""
        first = self._protocol.seeds[0]
        choice = RateChoice({rate: self._held_out_score(rate, first) for rate in self._protocol.learning_rates})
        for rate in choice.scores:
            if rate != choice.best:
                self.forget_weights(rate, first)
        return choice

    def trained(self, rate: float, seed: int) -> Path:
        """Return the folder of a trained embedder; train it if it is not there."""
        folder = self._folder(rate, seed)
        if not (folder / _MODEL_FOLDER).is_dir():
            self._train(folder, rate, seed)
        return folder / _MODEL_FOLDER

    def forget_weights(self, rate: float, seed: int) -> None:
        """Give back the room that a trained embedder takes."""
        shutil.rmtree(self._folder(rate, seed) / _MODEL_FOLDER, ignore_errors=True)

    def _held_out_score(self, rate: float, seed: int) -> float | None:
        about = self._folder(rate, seed) / _ABOUT_FILE
        if not about.is_file():
            self.trained(rate, seed)
        scores: dict[str, float] = json.loads(about.read_text(encoding="utf-8"))["held_out"]
        return scores.get(METRICS[0])

    def _train(self, folder: Path, rate: float, seed: int) -> None:
        from megatron_ettin.evaluation.suites.retrieval.embedder import build_embedder, rank_all
        from megatron_ettin.evaluation.suites.retrieval.fine_tuning import fine_tune

        number, num_trials = self._place(rate, seed)

        def progress(step: int, steps: int) -> None:
            self._config.progress(f"learning rate {rate:g}, seed {seed}", number * steps + step, num_trials * steps)

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

    def _place(self, rate: float, seed: int) -> tuple[int, int]:
        """Return which of the planned trials this is, from 0, and how many there are."""
        rates, seeds = list(self._protocol.learning_rates), list(self._protocol.seeds)
        number = rates.index(rate) if seed == seeds[0] else len(rates) + seeds.index(seed) - 1
        return number, len(rates) + len(seeds) - 1

    def _folder(self, rate: float, seed: int) -> Path:
        digest = hashlib.sha256(json.dumps(self._basis(rate, seed), sort_keys=True).encode()).hexdigest()[:12]
        return self._config.folder / f"lr_{rate:g}-seed_{seed}-{digest}"

    def _basis(self, rate: float, seed: int) -> dict[str, Any]:
        """Return all that a trained embedder depends on."""
        return {
            "model_checksum": self._subject.checksum,
            "pooling": POOLING[self._subject.is_encoder],
            "data_checksum": self._data.checksum,
            "protocol": self._protocol.training_as_dict(),
            "learning_rate": rate,
            "seed": seed,
            "versions": {library: version(library) for library in _LIBRARIES},
        }
