"""Everything that can be refused before a process group exists, files included; without torch and megatron-core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from megatron_ettin.checkpoint.folder.layout import half_written_folders, list_steps
from megatron_ettin.config.checks import check_run
from megatron_ettin.config.command_line import Command
from megatron_ettin.config.presets import ETTIN_VOCAB_SIZE
from megatron_ettin.config.run import RunConfig
from megatron_ettin.train.preflight.checkpoint import settle_step
from megatron_ettin.train.preflight.inherited import inherit_from_checkpoint
from megatron_ettin.train.preflight.inputs import (
    check_corpus,
    check_save_folder,
    check_wandb,
    load_tokenizer,
    resolve_vocabulary,
)


class PreparedRun(NamedTuple):
    """A run that was found fit to start."""

    config: RunConfig
    """Resolved: the vocabulary is known, and what a loaded checkpoint decides is taken from it."""
    notes: tuple[str, ...] = ()
    """What was taken from elsewhere or assumed, a line each."""


def prepare_run(command: Command, world_size: int) -> PreparedRun:
    """Complete a run from its files and check it against them.

    A dry run needs no corpus, tokenizer or folders; those that are given are checked all the same.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    notes = []
    if _nothing_saved_yet(command):
        parent = command.config.checkpoint.pretrained_checkpoint
        begins = f"starts from {parent}" if parent else "starts with new weights"
        notes.append(f"--load {command.config.checkpoint.load} holds no whole checkpoint yet: {begins}")
        half = half_written_folders(Path(command.config.checkpoint.save))
        notes += [f"half-written, not a checkpoint: {folder}" for folder in half]
        command = replace(command, config=command.config.with_values({"load": parent}))
    if command.config.checkpoint.load:
        step, passed_over = settle_step(command.config.checkpoint)
        notes += passed_over
        given = dict(command.given) | ({"load_step": ""} if step else {})
        command = replace(command, config=command.config.with_values({"load_step": step}), given=given)
    config, inherited = inherit_from_checkpoint(command)
    check_run(config, world_size, planning=bool(command.dry_run))
    tokenizer = load_tokenizer(config)
    if tokenizer is None and not config.model.vocab_size:
        config = config.with_values({"vocab_size": ETTIN_VOCAB_SIZE})
        notes.append(f"vocabulary: the published {ETTIN_VOCAB_SIZE:,}, for want of --tokenizer-model or --vocab-size")
    if tokenizer is not None:
        config = resolve_vocabulary(config, tokenizer)
    check_corpus(config, tokenizer)
    check_save_folder(config)
    check_wandb(config)
    return PreparedRun(config, (*notes, *inherited))


def _nothing_saved_yet(command: Command) -> bool:
    """Whether ``--load`` is ``--save`` and empty: one command line serves the first launch and all later ones."""
    places = command.config.checkpoint
    if not places.load or not places.save or places.load_step or command.config.training.eval_only:
        return False
    return Path(places.load).resolve() == Path(places.save).resolve() and not list_steps(Path(places.save))
