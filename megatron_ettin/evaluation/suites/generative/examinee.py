"""A model that answers the harness, loaded when the first item is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject, load_language_model
from megatron_ettin.evaluation.suites.generative.harness import HarnessTask, quiet, score_items
from megatron_ettin.evaluation.suites.generative.masked_frames import EncoderProtocol


@dataclass(frozen=True)
class ExamSettings:
    """How models are asked; the same for all tasks of a run."""

    protocol: EncoderProtocol = "left-to-right"
    future_masks: int = 0
    batch_size: int = 32
    device: str = "cpu"

    def protocol_of(self, task: HarnessTask) -> EncoderProtocol:
        """Return the protocol of a task: seeing what follows would give the answer away where there is no choice."""
        return self.protocol if task.is_choice else "left-to-right"


class Examinee:
    """One model under these settings."""

    def __init__(self, subject: Subject, settings: ExamSettings) -> None:
        """Say which model; it is not loaded yet."""
        self._subject, self._settings = subject, settings

    def score(self, task: HarnessTask, docs: Sequence[Any], listener: Callable[[float], None]) -> dict[str, Any]:
        """Return what the harness says of each item, and how many texts were too long.

        Args:
            task: where the items are from.
            docs: the items.
            listener: is told now and then which share of them is done.

        Raises:
            ConfigError: the model cannot be loaded, or cannot do what the task asks.
        """
        lm = self._lm
        if self._subject.is_encoder:
            lm.protocol = self._settings.protocol_of(task)
        lm.progress.listener, lm.progress.num_cut = listener, 0
        try:
            scores = score_items(lm, task, docs)
        except AssertionError as error:  # how the harness refuses, as to generate more than the model has positions
            rule = f"lm-evaluation-harness cannot put {task.name} to it"
            raise ConfigError(
                f"--model {self._subject.given}: {rule}: {error or 'an assertion of it fails'}"
            ) from error
        return {"scores": scores, "num_cut": lm.progress.num_cut}

    @cached_property
    def _lm(self) -> Any:
        model, tokenizer = load_language_model(self._subject, self._settings.device)
        with quiet():
            if self._subject.is_encoder:
                return self._open_encoder(model, tokenizer)
            from megatron_ettin.evaluation.suites.generative.decoder_lm import DecoderLM

            return DecoderLM(model, tokenizer, batch_size=self._settings.batch_size)

    def _open_encoder(self, model: Any, tokenizer: Any) -> Any:
        from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

        lacking = [role for role in ("cls", "sep", "mask", "pad") if getattr(tokenizer, f"{role}_token_id") is None]
        if lacking:
            raise ConfigError(f"--model {self._subject.given}: its tokenizer has no {', '.join(lacking)} token")
        settings = self._settings
        return EncoderLM(model, tokenizer, future_masks=settings.future_masks, batch_size=settings.batch_size)
