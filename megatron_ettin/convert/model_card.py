"""The README.md of a released model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.convert.config_map import ARCHITECTURES, TESTED_TRANSFORMERS
from megatron_ettin.convert.names import Objective

_KINDS: Mapping[Objective, str] = {"mlm": "encoder", "clm": "decoder"}
_TASKS: Mapping[Objective, str] = {"mlm": "fill-mask", "clm": "text-generation"}
_AUTO_CLASSES: Mapping[Objective, str] = {"mlm": "AutoModelForMaskedLM", "clm": "AutoModelForCausalLM"}


def write_model_card(run: Mapping[str, Any], model: ModelConfig, objective: Objective, num_parameters: int) -> str:
    """Return the card's text.

    Args:
        run: the checkpoint's ``run.json``.
        model: shape.
        objective: what the model was last trained by.
        num_parameters: weights in the folder; the output matrix is the embedding and counts once.
    """
    kind = _KINDS[objective]
    size = (
        f"{num_parameters:,} parameters: {model.num_layers} layers, width {model.hidden_size}, "
        f"{model.num_attention_heads} heads, vocabulary {model.vocab_size:,}."
    )
    return "\n".join(
        [
            *_front_matter(objective),
            f"# A ModernBERT-shaped {kind}",
            "",
            f"Trained by megatron_ettin ({objective}). {size}",
            "",
            "```python",
            f"from transformers import {_AUTO_CLASSES[objective]}, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("PATH")',
            f'model = {_AUTO_CLASSES[objective]}.from_pretrained("PATH")  # {ARCHITECTURES[objective]}',
            "```",
            "",
            f"Tested with transformers {TESTED_TRANSFORMERS}.",
            "",
            "## Training",
            "",
            *_training(run),
            "",
        ]
    )


def _front_matter(objective: Objective) -> list[str]:
    tags = [f"- {tag}" for tag in ("modernbert", "ettin", _KINDS[objective])]
    return ["---", "library_name: transformers", f"pipeline_tag: {_TASKS[objective]}", "tags:", *tags, "---", ""]


def _training(run: Mapping[str, Any]) -> list[str]:
    """Return what the checkpoint knows about how it came to be, a list item each."""
    facts = [f"- steps: {run['step']:,}", f"- tokens: {run['consumed_tokens']:,}"]
    if run.get("validation_loss") is not None:
        facts.append(f"- validation loss: {run['validation_loss']:.4f} nats per scored token")
    for phase in run.get("lineage", []):
        parent = f", from {phase['parent']}" if phase.get("parent") else ""
        facts.append(f"- phase: {phase['objective']}, {phase['steps']:,} steps, {phase['tokens']:,} tokens{parent}")
    return facts
