"""Rules shared by the suites that fine-tune: protocol fields, learning-rate selection, and transformers' Trainer."""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suite import SuiteOptions

Progress = Callable[[int, int], None]
"""Called with the training steps done and the total number of steps."""
CLIP_NORM = 1.0


class FineTuningProtocol:
    """Base of the fine-tuning protocols, which are frozen dataclasses that define these fields."""

    suite: ClassVar[str]
    warmup_share: ClassVar[float]
    """Fraction of the steps over which the learning rate rises; it then decays linearly to 0."""
    learning_rates: Sequence[float]
    epochs: int
    seeds: Sequence[int]
    device: str

    def __post_init__(self) -> None:
        """Check the learning rates and seeds.

        Raises:
            ConfigError: one of them is empty or has duplicates.
        """
        for flag, values in ((f"--{self.suite}-learning-rates", self.learning_rates), ("--seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                given = " ".join(f"{value:g}" for value in values)
                raise ConfigError(f"{flag} {given}: must be one or more different values")

    @classmethod
    def from_options(cls, options: SuiteOptions, **more: Any) -> Self:
        """Build the protocol from the command line, with the defaults of flags that are not given.

        Raises:
            ConfigError: a value is out of bounds.
        """
        flags = options.flags_of(cls.suite)
        given = {name: value for name, value in flags.items() if name in vars(cls)["__dataclass_fields__"]}
        return cls(**{**given, "seeds": tuple(options.seeds), "device": options.device, **more})

    @classmethod
    def add_flag(
        cls, add: Callable[..., Any], flag: str, kind: Callable[[str], Any], metavar: str, text: str, **more: Any
    ) -> None:
        """Add the flag ``--SUITE-FIELD`` with ``argparse``'s ``add_argument``.

        The default is the field's; a field of 0, which means no limit, has none.
        """
        default = getattr(cls(), flag.removeprefix(f"--{cls.suite}-").replace("-", "_")) or None
        add(flag, type=kind, metavar=metavar, default=default, help=text, **more)

    @property
    def uses_bf16(self) -> bool:
        """Whether training computes in bfloat16 (on a GPU) instead of fp32."""
        return self.device.startswith("cuda")

    def training_settings(self) -> dict[str, str]:
        """Return the precision and the learning-rate schedule, for the settings of a result."""
        return {
            "precision": "bf16" if self.uses_bf16 else "fp32",
            "schedule": f"linear, warm-up over {self.warmup_share:.0%} of the steps, then to 0",
        }

    def trainer_arguments(self, learning_rate: float, seed: int) -> dict[str, Any]:
        """Return the training arguments that all suites have in common: nothing is saved, logged or reported."""
        return {
            "learning_rate": learning_rate,
            "num_train_epochs": self.epochs,
            "lr_scheduler_type": "linear",
            "warmup_steps": self.warmup_share,
            "max_grad_norm": CLIP_NORM,
            "seed": seed,
            "data_seed": seed,
            "use_cpu": self.device == "cpu",
            "bf16": self.uses_bf16,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


@dataclass(frozen=True)
class RateSelection:
    """The learning rates of a grid with their scores on held-out items; higher is better."""

    scores: Mapping[float, float | None]
    """By rate. None without held-out items, which requires a grid of one rate."""

    @property
    def best(self) -> float:
        """The rate with the best score; the lowest one of a tie."""
        return min(self.scores, key=lambda rate: (-self._rank_score(rate), rate))

    @property
    def is_at_edge(self) -> bool:
        """Whether the best rate is the lowest or highest of the grid, so that a better one may lie outside it."""
        return len(self.scores) > 1 and self.best in (min(self.scores), max(self.scores))

    def as_details(self) -> dict[str, Any]:
        """Return the entries of a result's details."""
        return {
            "learning_rate": self.best,
            "learning_rate_at_edge_of_grid": self.is_at_edge,
            "choice_scores": {str(rate): self._defined_score(rate) for rate in self.scores},
        }

    def _defined_score(self, rate: float) -> float | None:
        score = self.scores[rate]
        return None if score is None or math.isnan(score) else score

    def _rank_score(self, rate: float) -> float:
        score = self._defined_score(rate)
        return -math.inf if score is None else score


def run_trainer(
    trainer_class: type[Any], arguments_class: type[Any], arguments: Mapping[str, Any], progress: Progress, **parts: Any
) -> None:
    """Train with a Trainer of transformers on one device, without its console output.

    Args:
        trainer_class: ``transformers.Trainer`` or a subclass.
        arguments_class: ``transformers.TrainingArguments`` or a subclass.
        arguments: the training arguments.
        progress: called after every step.
        parts: further arguments of the trainer, such as the model and the training data.
    """
    from transformers import PrinterCallback, TrainerCallback

    class StepReporter(TrainerCallback):
        """Passes the step counter to ``progress``."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Report a finished step."""
            progress(state.global_step, state.max_steps)

    with tempfile.TemporaryDirectory() as folder:  # the Trainer requires one, though nothing is saved
        training = arguments_class(output_dir=folder, **arguments)
        training._n_gpu = min(training.n_gpu, 1)  # with several GPUs the Trainer would multiply the batch size
        trainer = trainer_class(args=training, callbacks=[StepReporter()], **parts)
        trainer.remove_callback(PrinterCallback)
        # The Trainer runs the garbage collector, which would visit all objects of all loaded libraries: a quarter of a
        # second per training, as long as a tiny model trains.
        gc.freeze()
        try:
            trainer.train()
        finally:
            gc.unfreeze()
