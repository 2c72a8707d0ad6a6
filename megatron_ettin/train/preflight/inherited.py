"""Settings that a run inherits from the checkpoint it loads, and those that it may not change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import TOKENIZER_FOLDER
from megatron_ettin.config.command_line import Command
from megatron_ettin.config.options import Value
from megatron_ettin.config.run import IMPLIED_VALUES, RunConfig, run_options, value_of
from megatron_ettin.config.time_units import TWIN
from megatron_ettin.errors import ConfigError

FIXED = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "vocab_size",
    "untie_embeddings_and_output_weights",
    "norm_epsilon",
    "sliding_window",
    "global_attention_every",
)
"""The shape of the weights: inherited; a different value is refused."""

INHERITED = (
    "rope_global_base",
    "rope_local_base",
    "causal_window",
    "attention_output_dropout",
    "init_std",
    "init_cutoff",
    "seq_length",
    "packing",
    "chunk_size",
    "chunk_min_size",
    "chunk_skip_size",
    "chunk_at_sentences",
    "close_every_piece",
    "split",
    "split_by",
    "seed",
    "objective",
    "phase",
    "fp32_residual_connection",
    "loss_normalization",
)
"""Inherited unless given; a later phase may change them."""

RESUMED = ("data_version", "eval_iters", "eval_tokens")
"""Inherited unless given, but only if the same phase of the same objective continues."""

KEPT_ON_RESUME = (
    "fp32_residual_connection",
    "data_version",
    "eval_iters",
    "eval_tokens",
    "clip_grad",
    "max_lr",
    "weight_decay",
    "lr_wsd_decay_tokens",
)
"""Settings that a preset may resolve differently now: a resumed phase keeps the checkpoint's unless given."""


def inherit_settings(command: Command, folder: Path, run_json: Mapping[str, Any]) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the run with what it inherits from its checkpoint, and a line that lists these settings.

    Raises:
        ConfigError: a flag contradicts the checkpoint, or its ``run.json`` has no valid config.
    """
    trained = _trained_values(folder, run_json)
    _check_objective(command, str(trained["objective"]), folder)
    command = command.with_preset_for(str(trained["objective"]), str(trained["phase"]))
    config = command.config
    for name in FIXED:
        _refuse_another(command, name, trained[name], folder)
    inherited: dict[str, Value] = {
        name: trained[name]
        for name in (*FIXED, *INHERITED, *RESUMED)
        if not any(_is_given(command, each) for each in _units(name))
    }
    training = config.with_values(
        {name: inherited[name] for name in ("objective", "phase") if name in inherited}
    ).training
    if (training.objective, training.phase) == (trained["objective"], trained["phase"]):
        kept = [name for name in (*KEPT_ON_RESUME, *INHERITED) if any(map(command.is_from_preset, _units(name)))]
        inherited |= {name: trained[name] for name in kept if trained[name] != value_of(config, name)}
    else:
        inherited = {name: value for name, value in inherited.items() if name not in RESUMED}
    if not config.data.tokenizer_model:
        inherited["tokenizer_model"] = str(folder / TOKENIZER_FOLDER)
    flags = " ".join(run_options()[name].spell(value) for name, value in inherited.items())
    notes = (f"inherited from {folder}: {flags}",) if flags else ()
    return config.with_values(inherited), (*command.notes, *notes)


def _units(name: str) -> tuple[str, ...]:
    """Return a field, and the field that sets the same in the other unit if there is one: one of them decides."""
    return (name, TWIN[name]) if name in TWIN else (name,)


def _check_objective(command: Command, trained: str, folder: Path) -> None:
    """Only --phase cross changes the objective of a model in training; an evaluation may use any objective."""
    training = command.config.training
    crosses = training.phase == "cross" and _is_given(command, "phase")
    if crosses or training.eval_only or not _is_given(command, "objective") or training.objective == trained:
        return
    rule = f"the checkpoint in {folder} was trained with --objective {trained}"
    raise ConfigError(f"{command.spell_given('objective')}: {rule}; --phase cross trains its weights with another one")


def _trained_values(folder: Path, run_json: Mapping[str, Any]) -> dict[str, Value]:
    """Return the fields of the checkpoint's config that may be inherited; a missing one has its implied value."""
    sections = run_json.get("config")
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ConfigError(f"--load {folder}: its run.json does not contain the config of the run")
    trained = {}
    for name in dict.fromkeys((*FIXED, *INHERITED, *RESUMED, *KEPT_ON_RESUME)):
        option = run_options()[name]
        written = sections.get(option.section, {}).get(name, IMPLIED_VALUES.get(name, option.default))
        trained[name] = option.read(written, f"run.json of --load {folder}")
    return trained


def _refuse_another(command: Command, name: str, trained: Value, folder: Path) -> None:
    section = getattr(command.config, run_options()[name].section)
    if _is_given(command, name) and getattr(section, name) != trained:
        rule = f"the checkpoint in {folder} was trained with {run_options()[name].spell(trained)}"
        raise ConfigError(f"{command.spell_given(name)}: {rule}, which cannot change")


def _is_given(command: Command, name: str) -> bool:
    """Whether the user set a field; --vocab-size 0 does not set it."""
    return name in command.given and not (name == "vocab_size" and command.config.model.vocab_size == 0)
