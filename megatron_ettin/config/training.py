"""Objective, batch sizes, duration, optimizer and learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.options import option
from megatron_ettin.config.value_types import StepRange

REVISION_PREFIXES = {"pretrain": "step", "extend": "ext", "decay": "decay", "cross": "cross"}
"""Phase -> prefix of its checkpoints' names on the Hub (``step590532``), in the order of training."""

PHASES = tuple(REVISION_PREFIXES)
"""The recipe's three phases in order, and cross-objective training of a finished model."""


@dataclass(frozen=True)
class TrainingConfig:
    """Objective, batch sizes, duration, precision."""

    objective: str = option(
        "",
        ", ".join(f"{row.name} {row.summary}" for row in OBJECTIVES.values()),
        choices=tuple(OBJECTIVES),
    )
    phase: str = option(
        "pretrain",
        "phase of the recipe; a different phase than --load's counts steps and tokens from 0 and keeps the optimizer's "
        "state, cross takes only the weights and may change --objective",
        choices=PHASES,
    )
    micro_batch_size: int = option(1, "rows in one forward pass of one rank", at_least=1)
    global_batch_size: int = option(8, "rows in one step over all ranks", at_least=1)
    global_batch_tokens: int = option(
        0,
        "maximum tokens in one step over all ranks, instead of --global-batch-size",
        metavar="TOKENS",
        at_least=0,
        counts_tokens=True,
    )
    micro_batch_tokens: int = option(
        0,
        "maximum tokens in one forward pass of one rank, instead of --micro-batch-size",
        metavar="TOKENS",
        at_least=0,
        counts_tokens=True,
    )
    batch_warmup_tokens: int = option(
        0,
        "tokens over which the batch size grows to its full value; 0 disables",
        metavar="TOKENS",
        at_least=0,
        counts_tokens=True,
    )
    batch_warmup_start: int = option(
        0,
        "first batch size of --batch-warmup-tokens, in rows or tokens as the batch; 0 is one micro-batch",
        at_least=0,
        counts_tokens=True,
    )
    train_iters: int = option(0, "steps to train", at_least=0)
    train_tokens: int = option(
        0, "real (unpadded) tokens to train, instead of --train-iters", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    loss_normalization: str = option(
        "tokens",
        "divide the summed loss of a global batch by its scored tokens, or, as the authors' trainer does, average the "
        "means of the micro-batches by their rows",
        choices=("tokens", "authors"),
    )
    exit_interval: int = option(
        0, "save and stop after this many steps of this launch; 0 disables", metavar="STEPS", at_least=0
    )
    exit_after_minutes: float = option(
        0.0, "save and stop after this many minutes of this launch; 0 disables", metavar="MINUTES", at_least=0
    )
    max_skipped_steps: int = option(
        10,
        "steps in a row that may be skipped for a non-finite loss or gradient or a loss spike; one more ends the run "
        "with exit code 1",
        metavar="N",
        at_least=0,
    )
    skip_loss_spikes: float = option(
        0.0,
        "skip steps with a loss more than K standard deviations above the mean of the last 128 steps; 0 disables",
        metavar="K",
        at_least=0,
    )
    eval_interval: int = option(100, "validate every this many steps; 0 disables", metavar="STEPS", at_least=0)
    eval_interval_tokens: int = option(
        0, "validate every this many tokens, instead of steps", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    eval_iters: int = option(
        100,
        "size of one validation in full global batches: whole documents in a fixed random order, up to that many "
        "positions; 0 takes the whole split",
        at_least=0,
    )
    eval_tokens: int = option(
        0,
        "size of one validation in tokens, instead of --eval-iters; without either, the whole split",
        metavar="TOKENS",
        at_least=0,
        counts_tokens=True,
    )
    eval_only: bool = option(
        False, "measure the loss of --load on the whole validation split, print it as JSON and exit"
    )
    log_interval: int = option(10, "write metrics every this many steps", metavar="STEPS", at_least=1)
    profile_steps: StepRange = option(
        StepRange(""),
        "write a trace of these steps (numbered as logged) for Perfetto: FIRST:LAST or one step",
        metavar="A:B",
    )
    seed: int = option(21, "seed of weights, order, masks and dropout", at_least=0)
    bf16: bool = option(False, "compute in bfloat16 with fp32 master weights")
    fp32_residual_connection: bool = option(
        False,
        "with --bf16, keep the residual stream and the norms in fp32, as fp32 weights under autocast do; without "
        "--bf16 everything is fp32",
    )
    device: str = option("auto", "device to run on; auto takes CUDA where available", choices=("auto", "cpu", "cuda"))

    @property
    def widens_residual(self) -> bool:
        """Whether the residual stream has a wider type than the matrix products."""
        return self.bf16 and self.fp32_residual_connection


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule, which counts in steps or in real tokens."""

    optimizer: str = option(
        "adamw",
        "stable_adamw is the published recipe's, with --clip-grad 0; muon updates the matrices between embedding and "
        "output with Muon, all else with AdamW",
        choices=("adamw", "stable_adamw", "muon"),
    )
    lr: float = option(3e-3, "peak learning rate", at_least=0)
    min_lr: float = option(0.0, "learning rate at the end of the decay", at_least=0)
    lr_decay_style: str = option(
        "WSD",
        "shape of the schedule between the peak and --min-lr",
        choices=("constant", "linear", "cosine", "WSD", "1-sqrt"),
    )
    lr_warmup_iters: int = option(0, "steps of linear warm-up", metavar="STEPS", at_least=0)
    lr_decay_iters: int = option(0, "step at which the decay ends; 0 is --train-iters", metavar="STEPS", at_least=0)
    lr_wsd_decay_iters: int = option(
        0, "length of WSD's linear decay, which ends at --lr-decay-iters", metavar="STEPS", at_least=0
    )
    lr_warmup_tokens: int = option(
        0, "tokens of linear warm-up, instead of --lr-warmup-iters", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    lr_decay_tokens: int = option(
        0, "tokens at which the decay ends; 0 is --train-tokens", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    lr_wsd_decay_tokens: int = option(
        0, "length of WSD's linear decay in tokens, instead of steps", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    weight_decay: float = option(
        3e-4,
        "decoupled weight decay, multiplied by the learning rate (stable_adamw: by its ratio to --max-lr); none on 1-D "
        "parameters",
        at_least=0,
    )
    max_lr: float = option(
        0.0, "learning rate at which stable_adamw applies the full --weight-decay; 0 is --lr", at_least=0
    )
    adam_beta1: float = option(0.9, "decay of the first moment", at_least=0, below=1)
    adam_beta2: float = option(0.98, "decay of the second moment", at_least=0, below=1)
    adam_eps: float = option(1e-6, "added to the root of the second moment", above=0)
    muon_momentum: float = option(0.95, "decay of Muon's momentum", at_least=0, below=1)
    clip_grad: float = option(1.0, "maximum global gradient norm; 0 disables clipping", at_least=0)
