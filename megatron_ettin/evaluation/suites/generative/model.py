"""A model under evaluation by the harness, loaded when the first items are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject, load_language_model
from megatron_ettin.evaluation.suites.generative.harness import HarnessTask, quiet, score_items
from megatron_ettin.evaluation.suites.generative.masked_inputs import EncoderProtocol


@dataclass(frozen=True)
class ScoringSettings:
    """How models are scored; the same for all tasks of an evaluation."""

    protocol: EncoderProtocol = "left-to-right"
    future_masks: int = 0
    batch_size: int = 32
    device: str = "cpu"

    def protocol_of(self, task: HarnessTask) -> EncoderProtocol:
        """Return the protocol of a task: without choices, seeing the tokens that follow would reveal the answer."""
        return self.protocol if task.is_choice else "left-to-right"


class EvaluatedModel:
    """One model under the given settings."""

    def __init__(self, subject: Subject, settings: ScoringSettings) -> None:
        """Store the arguments; the model is not loaded yet."""
        self._subject, self._settings = subject, settings

    def score(self, task: HarnessTask, docs: Sequence[Any], on_progress: Callable[[float], None]) -> dict[str, Any]:
        """Return the harness's scores of each item, and the number of truncated texts.

        Args:
            task: the task of the items.
            docs: the items.
            on_progress: called with the fraction of the requests that are answered.

        Raises:
            ConfigError: the model cannot be loaded, or does not support the task.
        """
        lm = self._lm
        if self._subject.is_encoder:
            lm.protocol = self._settings.protocol_of(task)
        lm.progress.on_progress, lm.progress.num_truncated = on_progress, 0
        try:
            scores = score_items(lm, task, docs)
        except AssertionError as error:  # the harness asserts, for example, that generated texts fit into the positions
            rule = f"lm-evaluation-harness cannot run {task.name} with it"
            raise ConfigError(f"--model {self._subject.given}: {rule}: {error or 'an assertion fails'}") from error
        return {"scores": scores, "num_cut": lm.progress.num_truncated}

    @cached_property
    def _lm(self) -> Any:
        model, tokenizer = load_language_model(self._subject, self._settings.device)
        with quiet():
            if self._subject.is_encoder:
                return self._wrap_encoder(model, tokenizer)
            from megatron_ettin.evaluation.suites.generative.decoder_lm import DecoderLM

            return DecoderLM(model, tokenizer, batch_size=self._settings.batch_size)

    def _wrap_encoder(self, model: Any, tokenizer: Any) -> Any:
        from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

        for role, other in (("cls", "bos"), ("sep", "eos")):
            if getattr(tokenizer, f"{role}_token") is None:
                setattr(tokenizer, f"{role}_token", getattr(tokenizer, f"{other}_token"))
        missing = [role for role in ("cls", "sep", "mask", "pad") if getattr(tokenizer, f"{role}_token_id") is None]
        if missing:
            raise ConfigError(f"--model {self._subject.given}: its tokenizer has no {', '.join(missing)} token")
        settings = self._settings
        return EncoderLM(model, tokenizer, future_masks=settings.future_masks, batch_size=settings.batch_size)
