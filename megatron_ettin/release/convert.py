"""Checkpoints become model folders, several at a time; what a former attempt finished is verified and kept."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from megatron_ettin.convert.export import CheckFailed, export_checkpoint
from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.errors import ConfigError
from megatron_ettin.release.manifest import Manifest, fingerprint, read_manifest, record_files, revision_facts
from megatron_ettin.release.plan.layout import ReleaseFolder
from megatron_ettin.release.plan.revisions import Revision

Note = Callable[[str], None]


@dataclass(frozen=True)
class _Job:
    """One revision to be made."""

    revision: Revision
    folder: ReleaseFolder
    options: ExportOptions
    check: bool


class RevisionFailed(Exception):
    """A converted model computes something else than its checkpoint; that revision was not kept."""


def options_of(revision: Revision, options: ExportOptions) -> ExportOptions:
    """Return the options of one revision; its card tells how to load it."""
    return replace(options, revision=revision.name)


def convert_revisions(
    revisions: Sequence[Revision],
    folder: ReleaseFolder,
    options: ExportOptions,
    *,
    workers: int,
    check: bool,
    note: Note,
) -> None:
    """Make every model folder that is not there yet, ``workers`` at a time; several work in processes of their own.

    Raises:
        ConfigError: a checkpoint or the disk refuses. What is finished stays.
        RevisionFailed: a model failed its check.
    """
    _drop_half_made(folder)
    jobs = [_Job(revision, folder, options_of(revision, options), check) for revision in revisions]
    workers = min(workers, len(jobs))
    if workers == 1:
        for job in jobs:
            note(_outcome(job, partial(_make, job)))
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (threads,)) as pool:
        futures = {pool.submit(_make, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                note(_outcome(futures[future], future.result))
        finally:
            pool.shutdown(cancel_futures=True)


def _outcome(job: _Job, result: Callable[[], str]) -> str:
    """Return what was done for a revision, or raise what a user should read."""
    try:
        return f"{job.revision.name}: {result()}"
    except CheckFailed as failure:
        raise RevisionFailed(f"revision {job.revision.name}: {failure}") from failure
    except BrokenProcessPool as error:
        rule = "a process was killed, perhaps for memory; fewer --workers need less, and what is finished is kept"
        raise ConfigError(f"--save {job.folder.root}: {rule}") from error


def _make(job: _Job) -> str:
    """Verify or make one revision and say which."""
    target, path = job.folder.revision(job.revision.name), job.folder.manifest(job.revision.name)
    source = fingerprint(job.revision.checkpoint)
    former = read_manifest(path)
    if former is not None and (former.source, former.options) == (source, asdict(job.options)):
        if target.is_dir() and record_files(target) == former.files:
            return "verified, was finished before"
        word = "damaged, converted again"
    else:
        word = "converted"
    path.unlink(missing_ok=True)
    result = export_checkpoint(job.revision.checkpoint, target, options=job.options, overwrite=True, check=job.check)
    facts: dict[str, Any] = revision_facts(job.revision)
    Manifest(facts, source, asdict(job.options), result.num_parameters, record_files(target)).write(path)
    return f"{word}, {result.num_bytes / 1e6:,.1f} MB"


def _drop_half_made(folder: ReleaseFolder) -> None:
    """Take away what killed processes left; the folder is locked, so nobody works on them."""
    for half_made in folder.revision("").glob(".*.*"):
        shutil.rmtree(half_made, ignore_errors=True)


def _start_worker(threads: int) -> None:
    """Prepare a process: a stop signal lets it finish its revision, and it does not outlive its parent."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
