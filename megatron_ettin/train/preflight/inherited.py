"""What a run takes from the checkpoint it loads, and what it may not change."""

from __future__ import annotations

from pathlib import Path

from megatron_ettin.checkpoint.folder.layout import TOKENIZER_FOLDER, read_run_json, resolve_checkpoint
from megatron_ettin.config.command_line import Command
from megatron_ettin.config.fields import Value, field_value, run_options
from megatron_ettin.config.run import RunConfig
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
"""The shape of the weights: taken from the checkpoint, and refused where another is given."""

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
)
"""Taken from the checkpoint where not given; another may be given, for a later phase changes some of these."""


def inherit_from_checkpoint(command: Command) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the run completed from ``--load``, and notes of what was taken; without ``--load`` as it is.

    Raises:
        ConfigError: there is no such checkpoint, or a given flag contradicts it.
    """
    config = command.config
    if not config.checkpoint.load:
        return config, ()
    folder = resolve_checkpoint(config.checkpoint.load, config.checkpoint.load_step)
    trained = _trained_values(folder)
    _check_objective(command, str(trained["objective"]), folder)
    command = command.going_on_from(str(trained["objective"]), str(trained["phase"]))
    config = command.config
    for name in FIXED:
        _refuse_another(command, name, trained[name], folder)
    taken: dict[str, Value] = {name: value for name, value in trained.items() if not _is_given(command, name)}
    if not config.data.tokenizer_model:
        taken["tokenizer_model"] = str(folder / TOKENIZER_FOLDER)
    told = (run_options()[name].spell(value) for name, value in taken.items())
    return config.with_values(taken), (f"taken from {folder}: {' '.join(told)}",)


def _check_objective(command: Command, trained: str, folder: Path) -> None:
    """Another objective is a deliberate step of training; an evaluation may measure any model by any objective."""
    training = command.config.training
    is_deliberate = training.phase == "cross" and _is_given(command, "phase")
    if is_deliberate or training.eval_only or not _is_given(command, "objective") or training.objective == trained:
        return
    rule = f"the checkpoint in {folder} was trained with --objective {trained}"
    raise ConfigError(f"{command.spell_given('objective')}: {rule}; --phase cross trains its weights with another one")


def _trained_values(folder: Path) -> dict[str, Value]:
    """Return the fields of the checkpoint's run that matter to the next one; one it does not know has its default."""
    sections = read_run_json(folder).get("config")
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ConfigError(f"--load {folder}: its run.json does not tell the config of the run")
    trained = {}
    for name in (*FIXED, *INHERITED):
        option = run_options()[name]
        written = sections.get(option.section, {}).get(name, option.default)
        trained[name] = field_value(option, written, f"run.json of --load {folder}")
    return trained


def _refuse_another(command: Command, name: str, trained: Value, folder: Path) -> None:
    section = getattr(command.config, run_options()[name].section)
    if _is_given(command, name) and getattr(section, name) != trained:
        rule = f"the checkpoint in {folder} was trained with {run_options()[name].spell(trained)}"
        raise ConfigError(f"{command.spell_given(name)}: {rule}, which cannot change")


def _is_given(command: Command, name: str) -> bool:
    """Whether the user chose a value; a vocabulary of 0 leaves the choice."""
    return name in command.given and not (name == "vocab_size" and command.config.model.vocab_size == 0)
