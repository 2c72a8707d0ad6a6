"""What a checkpoint knows about how it came to be, as words for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.sources import parse_sources
from megatron_ettin.errors import ConfigError

DEFAULT_PHASE = "pretrain"
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))

Facts = list[tuple[str, str]]


def phase_of(run: Mapping[str, Any]) -> str:
    """Return the phase of the recipe that a ``run.json`` belongs to."""
    return str(_section(run, "training").get("phase") or DEFAULT_PHASE)


def recipe_facts(run: Mapping[str, Any]) -> Facts:
    """Return the settings of the last stretch of training by name. What ``run.json`` does not tell is left out."""
    training, optimizer, data = (_section(run, name) for name in ("training", "optimizer", "data"))
    betas = " and ".join(f"{optimizer[key]:g}" for key in ("adam_beta1", "adam_beta2") if key in optimizer)
    objective = OBJECTIVES.get(training.get("objective", ""))
    told = {
        "phase": phase_of(run),
        "objective": training.get("objective"),
        "share of masked tokens": data.get("mlm_probability") if objective and objective.hides_tokens else None,
        "positions in a row": data.get("seq_length"),
        "rows in a step": training.get("global_batch_size"),
        "optimizer": optimizer.get("optimizer"),
        "betas": betas or None,
        "epsilon": optimizer.get("adam_eps"),
        "weight decay": optimizer.get("weight_decay"),
        "gradient clipping": optimizer.get("clip_grad") or None,
        "peak learning rate": optimizer.get("lr"),
        "last learning rate": optimizer.get("min_lr"),
        "schedule": optimizer.get("lr_decay_style"),
        "warm-up": _duration(optimizer, "lr_warmup"),
        "decay": _duration(optimizer, "lr_wsd_decay"),
        "dropout after attention": _section(run, "model").get("attention_output_dropout"),
        "precision": "bfloat16 with fp32 master weights" if training.get("bf16") else "fp32",
        "seed": training.get("seed"),
    }
    return [(name, _spell(value)) for name, value in told.items() if value is not None]


def lineage_rows(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return phase, objective, steps, tokens and origin of every stretch of the model's life, first to last.

    The phase is empty where it is not known, as of imported weights.
    """
    return [
        (
            str(stretch.get("phase", "")),
            str(stretch["objective"]),
            f"{stretch['steps']:,}",
            f"{stretch['tokens']:,} ({short_count(stretch['tokens'])})",
            short_path(stretch.get("parent") or "") or "new weights",
        )
        for stretch in run.get("lineage", [])
    ]


def data_blend(run: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Return the corpora that were trained on, and the share of each where the blend gives weights.

    Understands one prefix, several, and Megatron's ``WEIGHT PREFIX WEIGHT PREFIX``. Folders are left out: they are the
    trainer's own.
    """
    given = _section(run, "data").get("data_path") or ""
    words = given.split() if isinstance(given, str) else [str(word) for word in given]
    try:
        sources = parse_sources(" ".join(words))
    except ConfigError:
        return [(PurePath(word).name, None) for word in words]
    names, amounts = [PurePath(source.path).name for source in sources], [s.weight or s.tokens for s in sources]
    known = [amount for amount in amounts if amount is not None]
    shares = [float(amount / sum(known)) for amount in known] if len(known) == len(names) else [None] * len(names)
    return list(zip(names, shares, strict=True))


def short_count(number: float) -> str:
    """Return a large number in the unit that people say it in.

    >>> short_count(8_500_000_000)
    '8.5B'
    """
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:g}"


def short_path(path: str) -> str:
    """Return the last two parts of a path: which run and which step, not where on whose disk."""
    return "/".join(part for part in PurePath(path).parts[-2:] if part != "/")


def _section(run: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = run.get("config", {}).get(name, {})
    return section if isinstance(section, Mapping) else {}


def _duration(optimizer: Mapping[str, Any], name: str) -> str | None:
    """Return a part of the schedule in tokens or in steps, as the run gave it."""
    tokens, steps = (optimizer.get(f"{name}_{unit}") for unit in ("tokens", "iters"))
    if tokens:
        return f"{short_count(tokens)} tokens"
    return f"{steps:,} steps" if steps else None


def _spell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
