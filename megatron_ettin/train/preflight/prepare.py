"""Complete a run and check it, its files included, before a process group exists; without torch and megatron-core."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import half_written_folders, list_steps
from megatron_ettin.config.checks import check_run
from megatron_ettin.config.command_line import Command
from megatron_ettin.config.presets import ETTIN_VOCAB_SIZE
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.fingerprint import order_fingerprint
from megatron_ettin.train.preflight.checkpoint import ResumePlan, plan_resume
from megatron_ettin.train.preflight.inputs import (
    check_corpus,
    check_save_folder,
    check_wandb,
    load_tokenizer,
    resolve_vocabulary,
)


@dataclass(frozen=True)
class PreparedRun:
    """A run that passed all checks, with what was read for them: a launch reads none of it again."""

    config: RunConfig
    """Complete: the vocabulary size is known, and inherited settings are filled in."""
    tokenizer: TokenizerFiles | None = None
    """None only in a dry run without ``--tokenizer-model``."""
    resume: ResumePlan | None = None
    """None without ``--load``."""
    assumptions: tuple[str, ...] = ()
    """What was assumed without a flag, one line each."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, skipped and inherited, one line each."""
        return (*self.assumptions, *(self.resume.notes if self.resume else ()))

    @cached_property
    def data_order(self) -> dict[str, Any]:
        """What determines the training order: the fingerprint that ``run.json`` stores."""
        assert self.tokenizer is not None
        return order_fingerprint(self.config, self.tokenizer)


def prepare_run(command: Command, world_size: int) -> PreparedRun:
    """Complete a run from its files and check it against them.

    A dry run needs no corpus, tokenizer or folder, but those that are given are checked.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    assumptions = []
    if _nothing_saved_yet(command):
        parent = command.config.checkpoint.pretrained_checkpoint
        start = f"starts from {parent}" if parent else "starts with new weights"
        assumptions.append(f"--load {command.config.checkpoint.load} has no complete checkpoint yet: {start}")
        half = half_written_folders(Path(command.config.checkpoint.save))
        assumptions += [f"half-written, not a checkpoint: {folder}" for folder in half]
        command = replace(command, config=command.config.with_values({"load": parent}))
    if not command.config.checkpoint.load:
        assumptions += command.notes
    config, resume = plan_resume(command) if command.config.checkpoint.load else (command.config, None)
    check_run(config, world_size, planning=bool(command.dry_run))
    tokenizer = load_tokenizer(config, resume.run_json.get("data_order") if resume else None)
    if tokenizer is not None and tokenizer.special_tokens_differ:
        assumptions.append(
            f"special tokens: [CLS], [SEP] and so on by name, as {config.checkpoint.load} was trained with"
        )
    if tokenizer is None and not config.model.vocab_size:
        config = config.with_values({"vocab_size": ETTIN_VOCAB_SIZE})
        assumptions.append(f"vocabulary: the published {ETTIN_VOCAB_SIZE:,} (no --tokenizer-model or --vocab-size)")
    if tokenizer is not None:
        config = resolve_vocabulary(config, tokenizer)
    check_corpus(config, tokenizer)
    check_save_folder(config)
    check_wandb(config)
    return PreparedRun(config, tokenizer, resume, tuple(assumptions))


def _nothing_saved_yet(command: Command) -> bool:
    """Whether ``--load`` is ``--save`` and has no checkpoint yet: the first launch of a command line that resumes."""
    places = command.config.checkpoint
    if not places.load or not places.save or places.load_step or command.config.training.eval_only:
        return False
    return Path(places.load).resolve() == Path(places.save).resolve() and not list_steps(Path(places.save))
