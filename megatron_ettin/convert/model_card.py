"""Write the model card of a release, its README.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ettin.checkpoint.folder.metrics_file import Record
from megatron_ettin.config.layer_pattern import layer_pattern
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import OBJECTIVES, mask_kind_of
from megatron_ettin.convert.hf_config import TESTED_TRANSFORMERS
from megatron_ettin.convert.options import UNKNOWN_LICENSE
from megatron_ettin.convert.training_facts import data_blend, lineage_rows, recipe_facts, short_count

CITATIONS = (
    "@article{weller2025seqvsseq,",
    "  title = {Seq vs Seq: An Open Suite of Paired Encoders and Decoders},",
    "  author = {Weller, Orion and Ricci, Kathryn and Marone, Marc and Chaffin, Antoine and Lawrie, Dawn",
    "            and Van Durme, Benjamin},",
    "  journal = {arXiv preprint arXiv:2507.11412},",
    "  year = {2025}",
    "}",
    "@article{warner2024modernbert,",
    "  title = {Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and Long",
    "           Context Finetuning and Inference},",
    "  author = {Warner, Benjamin and Chaffin, Antoine and Clavi{\\'e}, Benjamin and others},",
    "  journal = {arXiv preprint arXiv:2412.13663},",
    "  year = {2024}",
    "}",
    "@article{shoeybi2019megatron,",
    "  title = {Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism},",
    "  author = {Shoeybi, Mohammad and Patwary, Mostofa and Puri, Raul and LeGresley, Patrick and Casper, Jared",
    "            and Catanzaro, Bryan},",
    "  journal = {arXiv preprint arXiv:1909.08053},",
    "  year = {2019}",
    "}",
)
"""Lines of BibTeX."""


@dataclass(frozen=True)
class CardSubject:
    """The model that a card describes."""

    run: Mapping[str, Any]
    """The checkpoint's ``run.json``."""
    model: ModelConfig
    objective: str
    """Of the released class; differs from the training objective if the model was re-labelled."""
    num_parameters: int
    """Parameters in the folder; a tied output matrix counts once."""
    base_only: bool = False
    license: str = UNKNOWN_LICENSE
    repository: str = "PATH"
    """Where users load the model from."""
    revision: str = ""
    """Branch of the repository; empty is main."""
    metrics: Record = field(default_factory=dict)
    """Metrics of the run at this checkpoint."""
    revisions: Sequence[tuple[str, ...]] = ()
    """Revision, phase, step and tokens of all released checkpoints."""


def write_model_card(subject: CardSubject) -> str:
    """Return the text of the card."""
    sections = {
        f"A ModernBERT-shaped {OBJECTIVES[subject.objective].product}": _introduction(subject),
        "Use": _use(subject),
        "Architecture": _architecture(subject.model, subject.objective),
        "Training": _training(subject),
        "Results": _results(subject),
        "Revisions": _table(("revision", "phase", "step", "tokens"), subject.revisions),
        "Licence": _license(subject.license),
        "Citation": ["```bibtex", *CITATIONS, "```"],
    }
    lines = _front_matter(subject)
    for level, (title, body) in enumerate(sections.items()):
        if body:
            lines += ["", f"{'##' if level else '#'} {title}", "", *body]
    return "\n".join([*lines, ""])


def _front_matter(subject: CardSubject) -> list[str]:
    task = "feature-extraction" if subject.base_only else OBJECTIVES[subject.objective].hub.pipeline_tag
    tags = [f"- {tag}" for tag in ("modernbert", "ettin", OBJECTIVES[subject.objective].product)]
    facts = [f"license: {subject.license}", "library_name: transformers", f"pipeline_tag: {task}"]
    return ["---", *facts, "tags:", *tags, "---"]


def _introduction(subject: CardSubject) -> list[str]:
    model, objective = subject.model, subject.objective
    tokens = sum(entry["tokens"] for entry in subject.run.get("lineage", []))
    size = (
        f"{subject.num_parameters:,} parameters: {model.num_layers} layers, width {model.hidden_size}, "
        f"{model.num_attention_heads} heads, vocabulary {model.vocab_size:,}."
    )
    lines = [f"Pretrained with megatron_ettin on {short_count(tokens)} tokens. {size}"]
    products = [OBJECTIVES[entry["objective"]].product for entry in subject.run.get("lineage", [])]
    if products and products[-1] != OBJECTIVES[objective].product:
        article = "an" if products[-1] == "encoder" else "a"
        lines += ["", f"The weights of {article} {products[-1]}, re-labelled without further training."]
    if subject.base_only:
        lines += ["", "Without the prediction head and the output layer."]
    return lines


def _use(subject: CardSubject) -> list[str]:
    classes = OBJECTIVES[subject.objective].hub
    auto = "AutoModel" if subject.base_only else classes.auto_class
    architecture = classes.base_architecture if subject.base_only else classes.architecture
    place = f'"{subject.repository}"' + (f', revision="{subject.revision}"' if subject.revision else "")
    return [
        "```python",
        f"from transformers import {', '.join(sorted((auto, 'AutoTokenizer')))}",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({place})",
        f"model = {auto}.from_pretrained({place})  # {architecture}",
        "```",
        "",
        f"Tested with transformers {TESTED_TRANSFORMERS}.",
    ]


def _architecture(model: ModelConfig, objective: str) -> list[str]:
    layers = layer_pattern(model, mask_kind_of(objective))
    num_global = sum(layer.window is None for layer in layers)
    window = next((layer.window for layer in layers if layer.window is not None), (0, 0))
    local = f"{len(layers) - num_global} local ({window[0]} positions back, {window[1]} ahead)"
    output = "its own matrix" if model.untie_embeddings_and_output_weights else "the embedding's matrix"
    facts = [
        ("attention", f"{mask_kind_of(objective)}; {num_global} global layers, {local}"),
        ("RoPE base", f"{model.rope_global_base:,.0f} global, {model.rope_local_base:,.0f} local"),
        ("MLP", f"gated GELU of width {model.ffn_hidden_size:,}"),
        ("norm", f"LayerNorm without bias, epsilon {model.norm_epsilon:g}"),
        ("output", f"{output}, with a bias"),
    ]
    return _table(("", ""), facts)


def _training(subject: CardSubject) -> list[str]:
    run = subject.run
    blend = [(name, "" if share is None else f"{share:.2%}") for name, share in data_blend(run)]
    lines = [f"{run['step']:,} steps, {run['consumed_tokens']:,} tokens in the last phase. All phases:", ""]
    lines += _table(("phase", "objective", "steps", "tokens", "from"), lineage_rows(run))
    if run["step"]:
        lines += ["", "Settings of the last phase:", "", *_table(("", ""), recipe_facts(run))]
    if blend:
        lines += ["", "Data:", "", *_table(("corpus", "share"), blend)]
    return lines


def _results(subject: CardSubject) -> list[str]:
    """Return the metrics of the run; a re-labelled model has none with its new objective."""
    if subject.run.get("objective") != subject.objective:
        return []
    metrics = dict(subject.metrics)
    if subject.run.get("validation_loss") is not None:
        metrics["validation_loss"] = subject.run["validation_loss"]
        if OBJECTIVES[subject.objective].quality_metric == "perplexity":
            metrics["validation_perplexity"] = math.exp(min(metrics["validation_loss"], 700.0))
    labels = {
        "validation_loss": "validation loss, nats per scored token",
        "validation_masked_accuracy": "validation accuracy of masked tokens",
        "validation_perplexity": "validation perplexity",
        "loss": "training loss, nats per scored token",
    }
    return _table(("", ""), [(label, f"{metrics[key]:.4f}") for key, label in labels.items() if key in metrics])


def _license(name: str) -> list[str]:
    return [f"`{name}`" if name != UNKNOWN_LICENSE else "Not stated; ask the owner before use."]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
