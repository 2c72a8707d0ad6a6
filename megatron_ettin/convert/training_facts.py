"""Describe a checkpoint's training from its run.json, as text for tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.sources import Sources

DEFAULT_PHASE = "pretrain"
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))

Facts = list[tuple[str, str]]


def phase_of(run: Mapping[str, Any]) -> str:
    """Return the phase of the recipe that a ``run.json`` records."""
    return str(_section(run, "training").get("phase") or DEFAULT_PHASE)


def recipe_facts(run: Mapping[str, Any]) -> Facts:
    """Return the settings of the last training phase by name, without those that ``run.json`` lacks."""
    training, optimizer, data = (_section(run, name) for name in ("training", "optimizer", "data"))
    betas = " and ".join(f"{optimizer[key]:g}" for key in ("adam_beta1", "adam_beta2") if key in optimizer)
    objective = OBJECTIVES.get(training.get("objective", ""))
    facts = {
        "phase": phase_of(run),
        "objective": training.get("objective"),
        "masking rate": data.get("mlm_probability") if objective and objective.hides_tokens else None,
        "sequence length": data.get("seq_length"),
        "batch size in rows": training.get("global_batch_size"),
        "optimizer": optimizer.get("optimizer"),
        "betas": betas or None,
        "epsilon": optimizer.get("adam_eps"),
        "weight decay": optimizer.get("weight_decay"),
        "gradient clipping": optimizer.get("clip_grad") or None,
        "peak learning rate": optimizer.get("lr"),
        "final learning rate": optimizer.get("min_lr"),
        "schedule": optimizer.get("lr_decay_style"),
        "warm-up": _duration(optimizer, "lr_warmup"),
        "decay": _duration(optimizer, "lr_wsd_decay"),
        "attention output dropout": _section(run, "model").get("attention_output_dropout"),
        "precision": "bfloat16 with fp32 master weights" if training.get("bf16") else "fp32",
        "seed": training.get("seed"),
    }
    return [(name, _format(value)) for name, value in facts.items() if value is not None]


def lineage_rows(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return phase, objective, steps, tokens and origin of every training phase, in order.

    The phase is empty where it is unknown, as for imported weights.
    """
    return [
        (
            str(entry.get("phase", "")),
            str(entry["objective"]),
            f"{entry['steps']:,}",
            f"{entry['tokens']:,} ({short_count(entry['tokens'])})",
            short_path(entry.get("parent") or "") or "new weights",
        )
        for entry in run.get("lineage", [])
    ]


def data_blend(run: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Return the names of the training corpora, and the share of each where the blend gives weights.

    Reads one prefix, several, and Megatron's ``WEIGHT PREFIX WEIGHT PREFIX``. Folders are private and left out.
    """
    given = _section(run, "data").get("data_path") or ""
    words = given.split() if isinstance(given, str) else [str(word) for word in given]
    try:
        sources = Sources.parse(" ".join(words)).requests
    except ValueError:
        return [(PurePath(word).name, None) for word in words]
    names, amounts = [PurePath(source.path).name for source in sources], [s.weight or s.tokens for s in sources]
    known = [amount for amount in amounts if amount is not None]
    shares = [float(amount / sum(known)) for amount in known] if len(known) == len(names) else [None] * len(names)
    return list(zip(names, shares, strict=True))


def short_count(number: float) -> str:
    """Return a large number with a unit.

    >>> short_count(8_500_000_000)
    '8.5B'
    """
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:g}"


def short_path(path: str) -> str:
    """Return the last two parts of a path, the run and the step, without the private folders above."""
    return "/".join(part for part in PurePath(path).parts[-2:] if part != "/")


def _section(run: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = run.get("config", {}).get(name, {})
    return section if isinstance(section, Mapping) else {}


def _duration(optimizer: Mapping[str, Any], name: str) -> str | None:
    """Return the length of a part of the schedule, in tokens or in steps as configured."""
    tokens, steps = (optimizer.get(f"{name}_{unit}") for unit in ("tokens", "iters"))
    if tokens:
        return f"{short_count(tokens)} tokens"
    return f"{steps:,} steps" if steps else None


def _format(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
