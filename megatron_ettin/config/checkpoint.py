"""Checkpoints: where they are saved and loaded, how often, how, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.options import option


@dataclass(frozen=True)
class CheckpointConfig:
    """Where a run is saved to and loaded from."""

    save: str = option("", "folder for checkpoints, metrics.jsonl and TensorBoard events", metavar="DIR")
    load: str = option("", "a former --save folder (its latest whole checkpoint) or one step_* folder", metavar="DIR")
    load_step: int = option(0, "load this step of --load instead of the latest", metavar="N", at_least=0)
    pretrained_checkpoint: str = option(
        "",
        "load this while --load, where the run saves too, holds no whole checkpoint yet: one command line begins a "
        "phase from the one before it and goes on when it is started again",
        metavar="DIR",
    )
    load_fallback: bool = option(False, "where a file of the checkpoint is damaged, load the one before it")
    save_interval: int = option(0, "save every this many steps; 0 only at the end", metavar="STEPS", at_least=0)
    save_interval_tokens: int = option(
        0, "save every this many tokens, instead", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    async_save: bool = option(False, "write checkpoints in the background, from copies in host memory")
    keep_last_checkpoints: int = option(
        0, "keep this many of the latest checkpoints and delete earlier ones; 0 keeps all", metavar="N", at_least=0
    )
    save_retain_interval: int = option(
        0, "never delete the first checkpoint at or past each multiple of this many steps", metavar="STEPS", at_least=0
    )
    save_retain_interval_tokens: int = option(
        0, "the same in tokens, instead", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    tensorboard_dir: str = option("", "where TensorBoard events go; default SAVE/tensorboard", metavar="DIR")
    wandb_project: str = option(
        "", "show metrics at Weights & Biases too, under this project; needs the extra 'wandb'", metavar="NAME"
    )
