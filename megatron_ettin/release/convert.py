"""Convert checkpoints to model folders in parallel; revisions that an earlier run finished are verified and kept."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context

import torch

from megatron_ettin.cli import end_with_parent
from megatron_ettin.convert.export import CheckFailed, export_checkpoint
from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.errors import ConfigError
from megatron_ettin.release.manifest import RevisionManifest, fingerprint, read_manifest, record_files, revision_facts
from megatron_ettin.release.plan.layout import ReleaseFolder
from megatron_ettin.release.plan.revisions import Revision

Log = Callable[[str], None]


@dataclass(frozen=True)
class _Job:
    """One revision to convert."""

    revision: Revision
    folder: ReleaseFolder
    options: ExportOptions
    check: bool


class RevisionFailed(Exception):
    """A converted model's logits differ from its checkpoint's; the revision was not kept."""


def convert_revisions(
    revisions: Sequence[Revision],
    folder: ReleaseFolder,
    options: ExportOptions,
    *,
    workers: int,
    check: bool,
    log: Log,
) -> None:
    """Write the missing model folders, ``workers`` at a time; more than one worker means a process each.

    Raises:
        ConfigError: a checkpoint is damaged or writing fails. Finished revisions are kept.
        RevisionFailed: a model failed its check.
    """
    _remove_partial_folders(folder)
    jobs = [_Job(revision, folder, replace(options, revision=revision.name), check) for revision in revisions]
    workers = min(workers, len(jobs))
    if workers == 1:
        for job in jobs:
            log(_outcome(job, partial(_convert, job)))
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (threads,)) as pool:
        futures = {pool.submit(_convert, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                log(_outcome(futures[future], future.result))
        finally:
            pool.shutdown(cancel_futures=True)


def _outcome(job: _Job, result: Callable[[], str]) -> str:
    """Return the line that reports a revision, or raise its failure as one line."""
    try:
        return f"{job.revision.name}: {result()}"
    except CheckFailed as failure:
        raise RevisionFailed(f"revision {job.revision.name}: {failure}") from failure
    except BrokenProcessPool as error:
        reason = "a worker process was killed, perhaps for memory; fewer --workers need less, finished revisions stay"
        raise ConfigError(f"--save {job.folder.root}: {reason}") from error


def _convert(job: _Job) -> str:
    """Verify or convert one revision and report which."""
    target, path = job.folder.revision(job.revision.name), job.folder.manifest(job.revision.name)
    source = fingerprint(job.revision.checkpoint)
    previous = read_manifest(path)
    outcome = "converted"
    if previous is not None and (previous.source, previous.options) == (source, asdict(job.options)):
        if target.is_dir() and record_files(target) == previous.files:
            return "verified, was finished before"
        outcome = "damaged, converted again"
    path.unlink(missing_ok=True)
    result = export_checkpoint(job.revision.checkpoint, target, options=job.options, overwrite=True, check=job.check)
    files = record_files(target)
    facts = revision_facts(job.revision)
    RevisionManifest(facts, source, asdict(job.options), result.num_parameters, files).write(path)
    return f"{outcome}, {result.num_bytes / 1e6:,.1f} MB"


def _remove_partial_folders(folder: ReleaseFolder) -> None:
    """Delete what killed processes left; the release is locked, so no process is writing there."""
    for partial_folder in folder.revision("").glob(".*.*"):
        shutil.rmtree(partial_folder, ignore_errors=True)


def _start_worker(threads: int) -> None:
    """Set up a worker: it finishes its revision on a stop signal, and does not outlive its parent."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
