"""A released model with a classification output: the same module for encoders and decoders.

The classes of transformers differ between the two. ModernBertForSequenceClassification keeps the released prediction
head; ModernBertDecoderForSequenceClassification expects it under another name than the release uses and initialises it
randomly. Only the encoder's output has a bias. Here both keep their head and have a bias.

Shape suffixes: B inputs, S positions, H hidden size, C outputs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from megatron_ettin.evaluation.models.subject import (
    Subject,
    check_nothing_missing,
    load_language_model,
    loading_by_transformers,
)

Pooling = Literal["mean", "cls", "last"]
OUTPUT_STD = 0.02
"""Standard deviation of new weight matrices, as in the released models."""


class SequenceClassifier(nn.Module):
    """Trunk, pooling, prediction head (dense, activation, norm) and a linear output."""

    def __init__(self, trunk: Any, head: nn.Module, pooling: Pooling, num_outputs: int, seed: int) -> None:
        """Add a randomly initialised output to a model.

        Args:
            trunk: a transformers model that returns ``last_hidden_state`` [B, S, H].
            head: maps [B, H] to [B, H].
            pooling: how the positions of an input are pooled.
            num_outputs: number of classes, or 1 for a regression.
            seed: seed of the output's weights.
        """
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.pooling: Pooling = pooling
        self.output = nn.Linear(trunk.config.hidden_size, num_outputs)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.output.weight, std=OUTPUT_STD, generator=generator)
        nn.init.zeros_(self.output.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``logits`` [B, C] and, with labels, ``loss``: cross-entropy, or the squared error if C is 1.

        Args:
            input_ids: [B, S], padded on either side.
            attention_mask: [B, S], 0 at padding.
            labels: [B], class numbers or regression targets.
        """
        hidden_BSH = self.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits_BC = self.output(self.head(pool(hidden_BSH, attention_mask, self.pooling)))
        outputs = {"logits": logits_BC}
        if labels is not None:
            is_regression = logits_BC.shape[-1] == 1
            outputs["loss"] = (
                nn.functional.mse_loss(logits_BC[:, 0], labels)
                if is_regression
                else nn.functional.cross_entropy(logits_BC, labels)
            )
        return outputs


def pool(hidden_BSH: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector per input [B, H]; padding on either side is ignored."""
    if pooling == "mean":
        weights_BS1 = attention_mask.to(hidden_BSH.dtype).unsqueeze(-1)
        return (hidden_BSH * weights_BS1).sum(dim=1) / weights_BS1.sum(dim=1)
    rows = torch.arange(len(hidden_BSH), device=hidden_BSH.device)
    positions_S = torch.arange(1, hidden_BSH.shape[1] + 1, device=hidden_BSH.device)
    if pooling == "last":
        return hidden_BSH[rows, (attention_mask * positions_S).argmax(dim=1)]
    return hidden_BSH[rows, attention_mask.to(torch.int64).argmax(dim=1)]


def load_classifier(subject: Subject, pooling: Pooling, num_outputs: int, seed: int) -> SequenceClassifier:
    """Load a released model in fp32 and add a classification output.

    A release without a prediction head, or of another family, gets a random head of the same form, drawn with ``seed``.

    Raises:
        ConfigError: transformers cannot load the model, or weights are missing.
    """
    if subject.has_head:
        language_model, _ = load_language_model(subject)
        head = released_head(language_model)
        trunk = language_model.base_model
    else:
        trunk, head = _load_trunk(subject), None
    if hasattr(trunk.config, "use_cache"):
        trunk.config.use_cache = False  # nothing is generated
    return SequenceClassifier(trunk, head or random_head(trunk.config.hidden_size, seed), pooling, num_outputs, seed)


def released_head(language_model: Any) -> nn.Module | None:
    """Return the dense layer, activation and norm of a model of this family; None for other families."""
    head = getattr(language_model, "head", None) or getattr(language_model, "lm_head", None)
    return head if hasattr(head, "dense") and hasattr(head, "norm") else None


def random_head(hidden_size: int, seed: int) -> nn.Module:
    """Return an untrained prediction head of this family's form."""
    dense = nn.Linear(hidden_size, hidden_size, bias=False)
    nn.init.normal_(dense.weight, std=OUTPUT_STD, generator=torch.Generator().manual_seed(seed))
    return nn.Sequential(dense, nn.GELU(), nn.LayerNorm(hidden_size, bias=False))


def _load_trunk(subject: Subject) -> Any:
    from transformers import AutoModel

    with loading_by_transformers(subject):
        trunk, loading = AutoModel.from_pretrained(subject.folder, dtype=torch.float32, output_loading_info=True)
    check_nothing_missing(subject, loading["missing_keys"])
    return trunk
