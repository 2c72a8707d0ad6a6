"""A released model with an output for labels: the same module on an encoder and on a decoder.

transformers' classes for it differ between the two: ModernBertForSequenceClassification keeps the released prediction
head, while ModernBertDecoderForSequenceClassification looks for it under another name than the release has, so that it
begins with a random one; and only the encoder's output has a bias. Here both keep their head and both have a bias.

Shapes: B inputs, S positions, H hidden size, C outputs.
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
"""As the models' own matrices are drawn."""


class SequenceClassifier(nn.Module):
    """Trunk, pooling, prediction head (dense, activation, norm) and a linear output."""

    def __init__(self, trunk: Any, head: nn.Module, pooling: Pooling, num_outputs: int, seed: int) -> None:
        """Put a fresh output on a model.

        Args:
            trunk: a transformers model that gives ``last_hidden_state`` [B, S, H].
            head: from [B, H] to [B, H].
            pooling: which position stands for the input.
            num_outputs: number of classes; 1 for a regression.
            seed: the output's weights are drawn with it.
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
        """Return ``logits`` [B, C], and ``loss`` where labels are given: cross-entropy, or the squared error if C is 1.

        Args:
            input_ids: [B, S], padded at either side.
            attention_mask: [B, S], 0 at padding.
            labels: [B], numbers of classes, or figures.
        """
        hidden_BSH = self.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits_BC = self.output(self.head(pool(hidden_BSH, attention_mask, self.pooling)))
        told = {"logits": logits_BC}
        if labels is not None:
            is_regression = logits_BC.shape[-1] == 1
            told["loss"] = (
                nn.functional.mse_loss(logits_BC[:, 0], labels)
                if is_regression
                else nn.functional.cross_entropy(logits_BC, labels)
            )
        return told


def pool(hidden_BSH: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return what stands for each input [B, H]; padding, at whichever side, takes no part."""
    if pooling == "mean":
        weights_BS1 = attention_mask.to(hidden_BSH.dtype).unsqueeze(-1)
        return (hidden_BSH * weights_BS1).sum(dim=1) / weights_BS1.sum(dim=1)
    rows = torch.arange(len(hidden_BSH), device=hidden_BSH.device)
    positions_S = torch.arange(1, hidden_BSH.shape[1] + 1, device=hidden_BSH.device)
    if pooling == "last":
        return hidden_BSH[rows, (attention_mask * positions_S).argmax(dim=1)]
    return hidden_BSH[rows, attention_mask.to(torch.int64).argmax(dim=1)]


def load_classifier(subject: Subject, pooling: Pooling, num_outputs: int, seed: int) -> SequenceClassifier:
    """Load a released model and put an output for labels on it, in fp32.

    A release without its prediction head, or of another family, gets a fresh one of the same form, drawn with ``seed``.

    Raises:
        ConfigError: transformers cannot load it, or would have to make up weights.
    """
    if subject.has_head:
        language_model, _ = load_language_model(subject)
        head = released_head(language_model)
        trunk = language_model.base_model
    else:
        trunk, head = _load_trunk(subject), None
    if hasattr(trunk.config, "use_cache"):
        trunk.config.use_cache = False  # nothing is generated
    return SequenceClassifier(trunk, head or fresh_head(trunk.config.hidden_size, seed), pooling, num_outputs, seed)


def released_head(language_model: Any) -> nn.Module | None:
    """Return dense, activation and norm of a released model of this family; None where it has no such head."""
    head = getattr(language_model, "head", None) or getattr(language_model, "lm_head", None)
    return head if hasattr(head, "dense") and hasattr(head, "norm") else None


def fresh_head(hidden_size: int, seed: int) -> nn.Module:
    """Return an untrained head of the family's form."""
    dense = nn.Linear(hidden_size, hidden_size, bias=False)
    nn.init.normal_(dense.weight, std=OUTPUT_STD, generator=torch.Generator().manual_seed(seed))
    return nn.Sequential(dense, nn.GELU(), nn.LayerNorm(hidden_size, bias=False))


def _load_trunk(subject: Subject) -> Any:
    from transformers import AutoModel

    with loading_by_transformers(subject):
        trunk, loading = AutoModel.from_pretrained(subject.folder, dtype=torch.float32, output_loading_info=True)
    check_nothing_missing(subject, loading["missing_keys"])
    return trunk
