"""Upload a release to the Hugging Face Hub, one branch for each revision.

Only files whose size or hash differs from the branch's are sent, so an interrupted upload resumes, and a complete one
sends nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256
from megatron_ettin.release.plan.layout import UploadTarget

_GIT_ATTRIBUTES = ".gitattributes"
"""Written by the Hub itself, so never deleted."""

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""Base of the HTTP client's errors; which client that is depends on huggingface_hub's version."""


@dataclass(frozen=True)
class UploadResult:
    """What was sent to one target."""

    target: UploadTarget
    num_uploaded: int
    num_unchanged: int
    num_bytes: int
    """Of the uploaded files."""

    def __str__(self) -> str:
        """Describe the upload in one line."""
        sent = f"{self.num_uploaded} files, {self.num_bytes / 1e6:,.1f} MB" if self.num_uploaded else "nothing new"
        return f"{self.target}: {sent}; {self.num_unchanged} there already"


def upload_all(
    targets: tuple[UploadTarget, ...], *, private: bool, log: Callable[[str], None], token: str | None = None
) -> tuple[UploadResult, ...]:
    """Make every branch equal to its folder, in the given order.

    The Hub's address and the token come from the environment (HF_ENDPOINT, HF_TOKEN or ``hf auth login``).

    Raises:
        ConfigError: the Hub refuses the upload or cannot be reached. Finished uploads stay.
    """
    with _one_line_errors(targets[0].repository):
        api = HfApi(token=token, library_name="megatron_ettin")
        first_commits: dict[tuple[str, str], str] = {}
        results = []
        for target in targets:
            key = (target.repository, target.repo_type)
            if key not in first_commits:
                api.create_repo(target.repository, repo_type=target.repo_type, private=private, exist_ok=True)
                first_commits[key] = api.list_repo_commits(target.repository, repo_type=target.repo_type)[-1].commit_id
            results.append(_upload(api, target, first_commits[key]))
            log(str(results[-1]))
    return tuple(results)


def _upload(api: HfApi, target: UploadTarget, first_commit: str) -> UploadResult:
    where: dict[str, Any] = {"repo_id": target.repository, "repo_type": target.repo_type}
    if target.branch != "main":
        # From the first commit, so that the branch contains its own revision only, and not the files of main.
        api.create_branch(**where, branch=target.branch, revision=first_commit, exist_ok=True)
    remote = {
        entry.path: entry
        for entry in api.list_repo_tree(**where, revision=target.branch, recursive=True)
        if isinstance(entry, RepoFile) and target.covers(entry.path)
    }
    local = target.files()
    changed = {name: path for name, path in local.items() if not _is_same(remote.get(name), path)}
    removed = remote.keys() - local.keys() - {_GIT_ATTRIBUTES}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in changed.items()),
        *(CommitOperationDelete(path_in_repo=name) for name in sorted(removed)),
    ]
    if operations:
        api.create_commit(**where, operations=operations, revision=target.branch, commit_message=target.message)
    sent = sum(path.stat().st_size for path in changed.values())
    return UploadResult(target, len(changed), len(local) - len(changed), sent)


def _is_same(remote: RepoFile | None, path: Path) -> bool:
    if remote is None or remote.size != path.stat().st_size:
        return False
    if remote.lfs is not None:
        return remote.lfs.sha256 == file_sha256(path)
    return remote.blob_id == _git_blob_id(path.read_bytes())


def _git_blob_id(content: bytes) -> str:
    """Return the id that git gives a file of this content (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


@contextmanager
def _one_line_errors(repository: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except (_HTTP_ERROR, OSError, ValueError, RuntimeError) as error:
        # A RuntimeError names the file that could not be sent, and its cause is the reason.
        messages = (str(part) for part in (error, error.__cause__) if part is not None)
        reason = " ".join(" ".join(messages).split()) or type(error).__name__
        raise ConfigError(f"--push-to-hub {repository}: {reason}; run the command again to resume") from error
