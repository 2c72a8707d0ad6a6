"""Measure a released model against the trained model that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve
from megatron_ettin.config.objectives import OBJECTIVES, is_encoder
from megatron_ettin.evaluation.run_reports.pair_report import ModelReport
from megatron_ettin.evaluation.run_reports.samples import (
    Continuation,
    FilledMask,
    continue_text,
    fill_mask,
    word_to_mask,
)
from megatron_ettin.evaluation.run_reports.scoring import ScoredChunk, logit_difference, score_released

_SAMPLE_TOKENS = 24
_COMPARED_CHUNKS = 8


@dataclass(frozen=True)
class TrainedModel:
    """A finished run, and the logits of its last checkpoint."""

    name: str
    """encoder or decoder."""
    objective: str
    run_folder: Path
    curve: LossCurve
    logits: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
    """Maps input ids [S] of several texts to the logits [S, V] of each, computed with the checkpoint's tensors."""


def report_release(
    trained: TrainedModel,
    released_folder: Path,
    scored: Sequence[ScoredChunk],
    contents: Sequence[NDArray[np.integer]],
) -> ModelReport:
    """Load a released folder with transformers only, and measure it.

    Args:
        trained: the model that was released.
        released_folder: the folder that transformers loads.
        scored: the chunks of the validation split, as the trainer scores them.
        contents: the tokens of the same chunks, without special tokens and masking.

    Raises:
        ValueError: the run has no validation loss after its last step.
    """
    training, validation = trained.curve.training, trained.curve.validation
    if not validation or validation[-1].step < training[-1].step:
        raise ValueError(f"{trained.run_folder} has no validation loss after its last step, {training[-1].step}")
    model, tokenizer = _load_released(released_folder, trained.objective)
    score = score_released(model, scored)
    texts = [torch.from_numpy(chunk.tokens_S.astype(np.int64)) for chunk in scored[:_COMPARED_CHUNKS]]
    differences = (
        logit_difference(model, text, logits) for text, logits in zip(texts, trained.logits(texts), strict=True)
    )
    return ModelReport(
        name=trained.name,
        objective=trained.objective,
        run_folder=str(trained.run_folder),
        released_folder=str(released_folder),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=validation[-1].step,
        tokens=validation[-1].tokens,
        first_loss=training[0].loss,
        last_loss=training[-1].loss,
        validation_loss=validation[-1].loss,
        released_validation_loss=score.loss,
        scored_tokens=score.scored_tokens,
        logit_difference=max(differences),
        tokens_per_second=trained.curve.tokens_per_second,
        sample=_sample(model, tokenizer, trained.objective, contents),
    )


def _load_released(folder: Path, objective: str) -> tuple[Any, Any]:
    """Return the model, in fp32 and evaluation mode, and the tokenizer of a released folder."""
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # small models load instantly
    auto: Any = getattr(transformers, OBJECTIVES[objective].hub.auto_class)
    model = auto.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _sample(
    model: Any, tokenizer: Any, objective: str, contents: Sequence[NDArray[np.integer]]
) -> FilledMask | Continuation:
    """Sample from the start of the first chunk that is long enough, or else of the longest chunk."""
    content = next((content for content in contents if len(content) >= _SAMPLE_TOKENS), max(contents, key=len))
    tokens = content[:_SAMPLE_TOKENS].tolist()
    if is_encoder(objective):
        return fill_mask(model, tokenizer, tokens, word_to_mask(tokenizer, tokens))
    return continue_text(model, tokenizer, tokenizer.decode(tokens))
