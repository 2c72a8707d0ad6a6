"""Checkpoints: where they are saved and loaded, how often, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.options import option


@dataclass(frozen=True)
class CheckpointConfig:
    """Where a run is saved to and loaded from."""

    save: str = option("", "folder for checkpoints, metrics.jsonl and TensorBoard events", metavar="DIR")
    load: str = option(
        "", "an earlier --save folder (its latest complete checkpoint) or one step_* folder", metavar="DIR"
    )
    load_step: int = option(0, "load this step of --load instead of the latest", metavar="N", at_least=0)
    pretrained_checkpoint: str = option(
        "",
        "load this while --load, which is also --save, has no complete checkpoint yet: the same command line starts a "
        "phase from the previous one and resumes it when it is run again",
        metavar="DIR",
    )
    load_fallback: bool = option(False, "when a file of the checkpoint is damaged, load the previous checkpoint")
    save_interval: int = option(0, "save every this many steps; 0 only at the end", metavar="STEPS", at_least=0)
    save_interval_tokens: int = option(
        0, "save every this many tokens, instead of steps", metavar="TOKENS", at_least=0, counts_tokens=True
    )
    async_save: bool = option(False, "write checkpoints in the background, from copies in host memory")
    keep_last_checkpoints: int = option(
        0, "keep this many of the latest checkpoints and delete earlier ones; 0 keeps all", metavar="N", at_least=0
    )
    save_retain_interval: int = option(
        0, "never delete the first checkpoint at or past each multiple of this many steps", metavar="STEPS", at_least=0
    )
    save_retain_interval_tokens: int = option(
        0,
        "never delete the first checkpoint at or past each multiple of this many tokens",
        metavar="TOKENS",
        at_least=0,
        counts_tokens=True,
    )
    tensorboard_dir: str = option("", "folder for TensorBoard events; default SAVE/tensorboard", metavar="DIR")
    wandb_project: str = option(
        "", "also log metrics to this project of Weights & Biases; needs the extra 'wandb'", metavar="NAME"
    )
