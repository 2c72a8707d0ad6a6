"""The checkpoints of a launch, one after the other: training waits for each, or writes them in the background."""

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


class Saver:
    """Saves a run's state. Its methods are collective over the world, but :meth:`save` is the only slow one.

    With ``--async-save`` a save returns when this rank's tensors are copied; a thread of each rank writes them. The
    thread talks to nobody: between steps the ranks ask each other whether all have written, and when they have, the
    checkpoint is marked whole. At most one is under way, and it is the next one's and the launch's end to wait for it.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: TrainedParts,
        tokenizer_files: Mapping[str, bytes],
        tell: Callable[[str], None],
    ) -> None:
        """Hold what is saved.

        Args:
            config: says where to save, how, and what to keep.
            parts: what is saved.
            tokenizer_files: kept beside the weights.
            tell: called with a line about each checkpoint once it is whole.
        """
        self._config = config
        self._parts = parts
        self._ranks = parts.ranks
        self._tokenizer_files = tokenizer_files
        self._tell = tell
        self._buffers = HostBuffers(pinned=parts.device.type == "cuda") if config.checkpoint.async_save else None
        self._under_way: _Write | None = None
        self._sweeper: Thread | None = None

    def save(self, state: TrainingState) -> None:
        """Save ``state.step``, once the former checkpoint is whole.

        Raises:
            RunFailure: on all ranks, when there is no room or a rank could not write this one or the former.
        """
        self.finish()
        save = Path(self._config.checkpoint.save)
        if self._sweeper is not None:
            self._sweeper.join()  # what it deletes is room for this one
        staged = stage_checkpoint(save, self._config, state, self._parts, buffers=self._buffers)
        self._under_way = _Write(staged, self._ranks)
        if self._buffers is None:
            self._under_way.run()
            self.finish()
        else:
            self._under_way.start()

    def finish_if_written(self) -> None:
        """Make the checkpoint under way whole if all ranks have written it; does not wait.

        Raises:
            RunFailure: on all ranks, when one of them could not write.
        """
        if self._under_way is not None and self._all_ranks(self._under_way.is_done):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint under way, if there is one, and make it whole.

        Raises:
            RunFailure: on all ranks, when one of them could not write.
        """
        if self._under_way is None:
            return
        write, self._under_way = self._under_way, None
        folder = commit_checkpoint(write.staged, write.result(), self._ranks, self._tokenizer_files)
        self._tell(f"saved {folder}")
        if self._ranks.is_main:
            self._delete_others(folder)

    def _delete_others(self, newest: Path) -> None:
        if not retire(newest, self._config.checkpoint):
            return
        self._sweeper = Thread(target=sweep, args=(newest.parent,), name="checkpoint-sweeper")
        self._sweeper.start()
        if self._buffers is None:
            self._sweeper.join()

    def _all_ranks(self, answer: bool) -> bool:
        answers = torch.tensor(int(answer), device=self._parts.device.torch_device)
        torch.distributed.all_reduce(answers, torch.distributed.ReduceOp.MIN)
        return bool(answers.item())


class _Write(Thread):
    """Writing this rank's part: :meth:`run` in the calling thread, or :meth:`start` in one of its own."""

    def __init__(self, staged: StagedCheckpoint, ranks: Ranks) -> None:
        # A launch that fails does not wait for it: without the other ranks no checkpoint would come of it.
        super().__init__(name="checkpoint-writer", daemon=True)
        self.staged = staged
        self._ranks = ranks
        self._part: WrittenPart | str = f"rank {ranks.rank} was interrupted"

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""
        return not self.is_alive()

    def run(self) -> None:
        """Write."""
        self._part = attempt_write(self.staged, self._ranks)

    def result(self) -> WrittenPart | str:
        """Wait for the end and return what was written, or why it was not."""
        if self.ident is not None:
            self.join()
        return self._part
