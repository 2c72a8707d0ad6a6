"""Export a checkpoint as a Hugging Face model folder that plain transformers loads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.checkpoint.folder.integrity import check_large_files
from megatron_ettin.checkpoint.folder.layout import TOKENIZER_FOLDER, read_run_json, resolve_checkpoint
from megatron_ettin.checkpoint.folder.lock import held
from megatron_ettin.checkpoint.folder.metrics_file import metrics_at, read_metrics
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import is_encoder
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.check import CheckResult, check_export
from megatron_ettin.convert.checkpoint_reader import CheckpointReader
from megatron_ettin.convert.file_spans import FileSpan
from megatron_ettin.convert.hf_config import TESTED_TRANSFORMERS, config_to_hf
from megatron_ettin.convert.hf_tokenizer import SpecialTokens, read_special_tokens, write_json, write_release_tokenizer
from megatron_ettin.convert.import_model import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE
from megatron_ettin.convert.model_card import CardSubject, write_model_card
from megatron_ettin.convert.options import ExportOptions, check_license, released_as
from megatron_ettin.convert.safetensors_writer import DTYPE_NAMES, TensorBytes, TensorEntry, write_safetensors
from megatron_ettin.convert.tensor_names import (
    TensorName,
    base_names,
    row_blocks,
    tensor_names,
    tensor_to_hf,
)
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import new_folder

CARD_FILE = "README.md"

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPE_NAMES}
"""Types of released weights by the values of --dtype."""


class CheckFailed(Exception):
    """The exported model does not compute what the checkpoint does; nothing was kept."""

    @property
    def result(self) -> CheckResult:
        """The comparison that failed."""
        result = self.args[0]
        assert isinstance(result, CheckResult)
        return result

    def __str__(self) -> str:
        """Return the difference and where it starts."""
        result = self.result
        if result.wrong_encoding:
            return result.wrong_encoding
        return (
            f"the exported {result.compared} differ by {result.difference:.3g}, allowed are {result.allowed:.3g}; "
            f"first diverging: {result.first_diverging}"
        )


_DEFAULT_OPTIONS = ExportOptions()


@dataclass(frozen=True)
class ExportResult:
    """The outcome of an export."""

    checkpoint: Path
    objective: str
    num_parameters: int
    num_bytes: int
    """Of the weights."""
    check: CheckResult | None
    """None where the check was skipped."""
    dropout: float
    """BPE dropout of the training tokenizer, which the released one is without."""


@dataclass(frozen=True)
class _Source:
    """A checkpoint opened for export."""

    folder: Path
    run: dict[str, Any]
    model: ModelConfig
    objective: str
    max_positions: int
    tokens: SpecialTokens
    tokenizer: TokenizerFiles
    reader: CheckpointReader
    names: tuple[TensorName, ...]
    """The tensors to release."""
    dtype: torch.dtype
    base_only: bool
    """Without head and output."""
    options: ExportOptions

    def tensor(self, name: str) -> Tensor:
        return self.reader.tensor(name).to(self.dtype)

    def find_rows(self, name: TensorName) -> list[list[FileSpan]] | None:
        """Return the byte ranges of each Hugging Face tensor; None where bytes cannot be copied as they are."""
        if self.reader.dtype(name.canonical) != self.dtype:
            return None
        blocks = row_blocks(name, self.model.num_attention_heads)
        spans = [self.reader.find_rows(name.canonical, rows) for rows in blocks]
        complete = [each for each in spans if each is not None]
        return complete if len(complete) == len(spans) else None

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(name.shape) for name in self.names)


def export_checkpoint(
    load: str | Path,
    save: Path,
    *,
    step: int = 0,
    options: ExportOptions = _DEFAULT_OPTIONS,
    overwrite: bool = False,
    check: bool = True,
) -> ExportResult:
    """Write the folder ``save`` from a checkpoint.

    Args:
        load: a run's folder or one step's.
        save: the new folder.
        step: which step of a run's folder; 0 is the latest.
        options: type, objective and card of the release.
        overwrite: replace an existing export.
        check: reload the result and compare its logits with the checkpoint's.

    Raises:
        ConfigError: the checkpoint, an option or ``save`` is not valid.
        CheckFailed: the result does not compute what the checkpoint does.
    """
    source = _open_checkpoint(resolve_checkpoint(load, step), options)
    with held(source.folder), new_folder(save, overwrite=overwrite, known_by=CONFIG_FILE) as partial:
        # Checksums and copies both release the interpreter lock and wait for the disk, so they run concurrently.
        with ThreadPoolExecutor(1) as thread:
            intact = thread.submit(check_large_files, source.folder)
            _write_weights(partial, source)
            intact.result()
        _write_descriptions(partial, source)
        result = _run_check(partial, source) if check else None
        if result is not None and not result.passed:
            raise CheckFailed(result)
    num_bytes = source.num_parameters * source.dtype.itemsize
    return ExportResult(
        source.folder, source.objective, source.num_parameters, num_bytes, result, source.tokenizer.dropout
    )


def _open_checkpoint(folder: Path, options: ExportOptions) -> _Source:
    run = read_run_json(folder)
    try:
        config = RunConfig.from_dict(run["config"])
        model, (objective, base_only) = config.model, released_as(run["objective"], options)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"--load {folder}: its run.json is of another version: {error}") from error
    if options.dtype and options.dtype not in DTYPES:
        raise ConfigError(f"--dtype {options.dtype}: must be one of {', '.join(DTYPES)}")
    check_license(options.license)
    tokenizer = TokenizerFiles.load(folder / TOKENIZER_FOLDER, "--load").as_trained(run.get("data_order"))
    names = tensor_names(objective, model)
    reader = CheckpointReader(folder)
    reader.check(names)
    return _Source(
        folder=folder,
        run=run,
        model=model,
        objective=objective,
        max_positions=config.data.seq_length,
        tokens=read_special_tokens(tokenizer, objective, model.vocab_size),
        tokenizer=tokenizer,
        reader=reader,
        names=base_names(names) if base_only else names,
        dtype=DTYPES[options.dtype] if options.dtype else reader.dtype(names[0].canonical),
        base_only=base_only,
        options=options,
    )


def _write_weights(folder: Path, source: _Source) -> None:
    """Write all tensors; each is read, converted and written before the next."""
    shards = _plan_shards(source, source.options.shard_bytes)
    if len(shards) == 1:
        files = [WEIGHTS_FILE]
    else:
        files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    weight_map = {}
    for file, names in zip(files, shards, strict=True):
        entries = [entry for name in names for entry in _entries(name, source.dtype)]
        write_safetensors(folder / file, entries, _converted(names, source))
        weight_map.update({entry.name: file for entry in entries})
    if len(shards) > 1:
        total = source.num_parameters * source.dtype.itemsize
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _plan_shards(source: _Source, shard_bytes: int) -> list[list[TensorName]]:
    """Split the tensors, in order, into files of at most ``shard_bytes``, but of one tensor at least."""
    shards: list[list[TensorName]] = [[]]
    filled = 0
    for name in source.names:
        size = math.prod(name.shape) * source.dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _entries(name: TensorName, dtype: torch.dtype) -> list[TensorEntry]:
    return [TensorEntry(hf_name, name.hf_shape, dtype) for hf_name in name.hf_names]


def _converted(names: Sequence[TensorName], source: _Source) -> Iterator[TensorBytes]:
    """Yield the Hugging Face tensors: as byte ranges to copy where rows are only moved, else converted."""
    num_heads = source.model.num_attention_heads
    for name in names:
        spans = source.find_rows(name)
        yield from spans or tensor_to_hf(name, source.tensor(name.canonical), num_heads)


def _write_descriptions(folder: Path, source: _Source) -> None:
    tokens = source.tokens
    config = config_to_hf(
        source.model,
        source.objective,
        max_positions=source.max_positions,
        tokens=tokens,
        dtype=str(source.dtype).removeprefix("torch."),
        base_only=source.base_only,
    )
    write_json(folder / CONFIG_FILE, config)
    if not is_encoder(source.objective) and not source.base_only:
        ends = {"bos_token_id": tokens.cls.id, "eos_token_id": tokens.end.id, "pad_token_id": tokens.pad.id}
        write_json(folder / "generation_config.json", ends | {"transformers_version": TESTED_TRANSFORMERS})
    write_release_tokenizer(source.folder / TOKENIZER_FOLDER, folder, source.objective, tokens, source.max_positions)
    subject = CardSubject(
        run=source.run,
        model=source.model,
        objective=source.objective,
        num_parameters=source.num_parameters,
        base_only=source.base_only,
        license=source.options.license,
        repository=source.options.repository,
        revision=source.options.revision,
        metrics=metrics_at(read_metrics(source.folder.parent), source.run["step"]),
    )
    (folder / CARD_FILE).write_text(write_model_card(subject), encoding="utf-8")


def _run_check(folder: Path, source: _Source) -> CheckResult:
    return check_export(
        folder,
        lambda name: source.tensor(name).float(),
        source.model,
        source.objective,
        tokenizer=source.tokenizer,
        base_only=source.base_only,
    )
