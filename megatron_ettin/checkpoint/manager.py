"""The checkpoints of a launch: saved while training waits, or in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

import torch.distributed

from megatron_ettin.checkpoint.folder.retention import retire, sweep
from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.checkpoint.rank_state import TrainedParts
from megatron_ettin.checkpoint.save import StagedCheckpoint, attempt_write, commit_checkpoint, stage_checkpoint
from megatron_ettin.checkpoint.writer import HostBuffers, WrittenPart
from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.ranks import Ranks


class CheckpointManager:
    """Saves a run's state and deletes old checkpoints. All methods are collective over the world.

    With ``--async-save``, :meth:`save` returns as soon as this rank's tensors are copied, and a thread of each rank
    writes them. The thread uses no collectives: between steps the ranks ask each other whether all have finished, and
    if so the checkpoint is marked complete. At most one save is in flight; the next save and the end of the launch wait
    for it.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: TrainedParts,
        tokenizer_files: Mapping[str, bytes],
        log: Callable[[str], None],
    ) -> None:
        """Create the manager.

        Args:
            config: where and how to save, and what to keep.
            parts: the objects of this rank whose state is saved.
            tokenizer_files: stored next to the weights.
            log: called with a line about each checkpoint once it is complete.
        """
        self._config = config
        self._parts = parts
        self._ranks = parts.ranks
        self._tokenizer_files = tokenizer_files
        self._log = log
        self._buffers = HostBuffers(pinned=parts.device.type == "cuda") if config.checkpoint.async_save else None
        self._pending: _Write | None = None
        self._sweeper: Thread | None = None

    def save(self, state: TrainingState) -> None:
        """Save ``state.step``, once the previous checkpoint is complete.

        Raises:
            RunFailure: on all ranks, if the disk is full or a rank could not write this checkpoint or the previous one.
        """
        self.finish()
        save = Path(self._config.checkpoint.save)
        if self._sweeper is not None:
            self._sweeper.join()  # its deletions make room for this one
        staged = stage_checkpoint(save, self._config, state, self._parts, buffers=self._buffers)
        self._pending = _Write(staged, self._ranks)
        if self._buffers is None:
            self._pending.run()
            self.finish()
        else:
            self._pending.start()

    def finish_if_written(self) -> None:
        """Complete the pending checkpoint if all ranks have written it; does not wait.

        Raises:
            RunFailure: on all ranks, if one of them could not write.
        """
        if self._pending is not None and self._all_ranks(self._pending.is_done):
            self.finish()

    def finish(self) -> None:
        """Wait for the pending checkpoint, if there is one, and complete it.

        Raises:
            RunFailure: on all ranks, if one of them could not write.
        """
        if self._pending is None:
            return
        write, self._pending = self._pending, None
        folder = commit_checkpoint(write.staged, write.result(), self._ranks, self._tokenizer_files)
        self._log(f"saved {folder}")
        if self._ranks.is_main:
            self._delete_old(folder)

    def _delete_old(self, newest: Path) -> None:
        if not retire(newest, self._config.checkpoint):
            return
        self._sweeper = Thread(target=sweep, args=(newest.parent,), name="checkpoint-sweeper")
        self._sweeper.start()
        if self._buffers is None:
            self._sweeper.join()

    def _all_ranks(self, value: bool) -> bool:
        minimum = torch.tensor(int(value), device=self._parts.device.torch_device)
        torch.distributed.all_reduce(minimum, torch.distributed.ReduceOp.MIN)
        return bool(minimum.item())


class _Write(Thread):
    """The write of this rank's part: :meth:`run` uses the calling thread, :meth:`start` a new one."""

    def __init__(self, staged: StagedCheckpoint, ranks: Ranks) -> None:
        # A daemon: a launch that fails does not wait for a checkpoint that the other ranks will not complete.
        super().__init__(name="checkpoint-writer", daemon=True)
        self.staged = staged
        self._ranks = ranks
        self._part: WrittenPart | str = f"rank {ranks.rank} was interrupted"

    @property
    def is_done(self) -> bool:
        """Whether the write has ended, successfully or not."""
        return not self.is_alive()

    def run(self) -> None:
        """Write."""
        self._part = attempt_write(self.staged, self._ranks)

    def result(self) -> WrittenPart | str:
        """Wait for the end; return what was written, or the reason why not."""
        if self.ident is not None:
            self.join()
        return self._part
