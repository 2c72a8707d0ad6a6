"""Write the main branch: the last revision, and files that describe all of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import yaml

from megatron_ettin.checkpoint.folder.layout import read_run_json
from megatron_ettin.checkpoint.folder.metrics_file import metrics_at, read_metrics
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.export import CARD_FILE
from megatron_ettin.convert.import_model import CONFIG_FILE
from megatron_ettin.convert.model_card import CardSubject, write_model_card
from megatron_ettin.convert.options import ExportOptions, released_as
from megatron_ettin.convert.training_facts import short_count
from megatron_ettin.files import link_tree, new_folder, write_json_atomic
from megatron_ettin.release.manifest import FileRecord, RevisionManifest
from megatron_ettin.release.plan.layout import CHECKPOINTS_FILE, TRAINING_ORDER_FILE, ReleaseFolder
from megatron_ettin.release.plan.revisions import Revision

_COLUMNS = ("revision", "phase", "step", "tokens", "learning_rate", "loss", "checksum")
_PRIVATE_SECTIONS = ("checkpoint",)
_PATHS = ("data_path", "tokenizer_model")


def write_main_folder(
    folder: ReleaseFolder,
    revisions: Sequence[tuple[Revision, RevisionManifest]],
    options: ExportOptions,
    training_order: Mapping[str, FileRecord],
) -> None:
    """Write the folder, replacing a previous one.

    Args:
        folder: the release; all its revisions are finished.
        revisions: every revision in the order of training.
        options: what the models were released as.
        training_order: the files of the training order by path; may be empty.

    Raises:
        ConfigError: writing fails.
    """
    last, manifest = revisions[-1]
    with new_folder(folder.main, overwrite=True, known_by=CONFIG_FILE) as partial:
        link_tree(folder.revision(last.name), partial, leave_out=frozenset({CARD_FILE}))
        (partial / CARD_FILE).write_text(_card(last, manifest, revisions, options), encoding="utf-8")
        _write_checkpoints_table(partial / CHECKPOINTS_FILE, revisions)
        (partial / "configs").mkdir()
        for revision, _ in revisions:  # the last revision of a phase overwrites the earlier ones
            config = _public_config(read_run_json(revision.checkpoint)["config"])
            text = yaml.safe_dump(config, sort_keys=False)
            (partial / "configs" / f"{revision.phase}.yaml").write_text(text, encoding="utf-8")
        if training_order:
            files = {name: asdict(record) for name, record in training_order.items()}
            write_json_atomic(partial / TRAINING_ORDER_FILE, {"files": files})


def _write_checkpoints_table(path: Path, revisions: Sequence[tuple[Revision, RevisionManifest]]) -> None:
    """Write CHECKPOINTS.csv, one row for each revision; values that the run did not log are empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for revision, manifest in revisions:
            row = (revision.name, revision.phase, revision.step, revision.tokens, revision.learning_rate, revision.loss)
            table.writerow("" if value is None else value for value in (*row, manifest.checksum))


def _public_config(config: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a run's settings with paths reduced to file names, without the trainer's own folders."""
    kept = {name: dict(section) for name, section in config.items() if name not in _PRIVATE_SECTIONS}
    data = kept.get("data", {})
    for key in _PATHS:
        if isinstance(data.get(key), str):
            data[key] = " ".join(PurePath(word).name for word in data[key].split())
    return kept


def _card(
    last: Revision,
    manifest: RevisionManifest,
    revisions: Sequence[tuple[Revision, RevisionManifest]],
    options: ExportOptions,
) -> str:
    run = read_run_json(last.checkpoint)
    objective, base_only = released_as(run["objective"], options)
    table = [(f"`{r.name}`", r.phase, f"{r.step:,}", short_count(r.tokens)) for r, _ in revisions]
    subject = CardSubject(
        run=run,
        model=RunConfig.from_dict(run["config"]).model,
        objective=objective,
        num_parameters=manifest.num_parameters,
        base_only=base_only,
        license=options.license,
        repository=options.repository,
        metrics=metrics_at(read_metrics(last.checkpoint.parent), last.step),
        revisions=table,
    )
    return write_model_card(subject)
