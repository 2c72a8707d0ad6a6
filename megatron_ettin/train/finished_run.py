"""Read a finished run without megatron-core: its config, weights and validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE, TOKENIZER_FOLDER, open_checkpoint, read_run_json
from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.checkpoint_reader import CheckpointReader
from megatron_ettin.convert.reference import reference_logits
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.chunks import Chunk
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.objectives.objective import build_objective
from megatron_ettin.train.datasets import build_validation_rows, open_corpus


@dataclass(frozen=True)
class FinishedRun:
    """A ``--save`` folder and its latest checkpoint."""

    folder: Path
    checkpoint: Path
    config: RunConfig

    @classmethod
    def open(cls, folder: Path) -> FinishedRun:
        """Open the latest checkpoint.

        Raises:
            ConfigError: there is no complete checkpoint.
        """
        checkpoint, run_json = open_checkpoint(folder)
        return cls(folder, checkpoint, RunConfig.from_dict(run_json["config"]))

    @property
    def objective(self) -> str:
        """Name of the objective it was trained with."""
        return self.config.training.objective

    @property
    def metrics(self) -> Path:
        """The metrics file of the run."""
        return self.folder / METRICS_FILE

    def validation_split(self) -> tuple[tuple[Chunk, ...], PackedBatch]:
        """Return every chunk of the validation split in document order, and all of them as one batch.

        Raises:
            ConfigError: the corpus is gone.
        """
        data_order = read_run_json(self.checkpoint).get("data_order")
        tokenizer = TokenizerFiles.load(self.checkpoint / TOKENIZER_FOLDER).as_trained(data_order)
        sources = build_validation_rows(self.config, open_corpus(self.config), tokenizer)
        unsorted = (chunk for rows in sources for row in rows for chunk in row)
        chunks = tuple(sorted(unsorted, key=lambda chunk: (chunk.source, chunk.document, chunk.index)))
        return chunks, build_objective(self.config, tokenizer).eval_batch([chunks])

    def logits(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits [S, V] of each text (input ids [S]), computed from the tensors of the checkpoint."""
        reader = CheckpointReader(self.checkpoint)
        return reference_logits(reader.tensor, self.config.model, mask_kind_of(self.objective), texts)
