"""The work folder of an unfinished run: a journal of its finished parts, which are joined in order.

A line is appended for every finished part, after its files have been moved to their names. So a killed run loses only
the parts it was writing, and resumes with the same result. The same holds after a power failure: parts are joined,
flushed to disk and recorded as joined before their own files are deleted, and the others are verified on resume.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ettin.data.corpus.indexed import IndexHeader
from megatron_ettin.data.corpus.manifest import Part
from megatron_ettin.data.corpus.merge import append_file
from megatron_ettin.data.preprocess.progress import Progress
from megatron_ettin.data.preprocess.worker import PartDone, TaskEnded, part_prefix, skipped_file
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256, flush_to_disk, locked

_JOURNAL = "journal.jsonl"


class Journal:
    """The finished parts of one run; as a context manager it locks the folder against a second run.

    Attributes:
        in_order: finished parts in the order of the input, up to the first that is missing.
        is_complete: whether only the final renames are left.
    """

    def __init__(
        self, folder: str, facts: Mapping[str, Any], tasks: Sequence[int], num_keys: int, *, can_resume: bool = True
    ) -> None:
        """Describe the run; :meth:`__enter__` opens the folder.

        Args:
            folder: the work folder, created where it does not exist.
            facts: everything that determines the output, by the flag to name when it has changed.
            tasks: numbers of all tasks, in order.
            num_keys: pairs to write.
            can_resume: whether the inputs can be read again; else the parts of an earlier run are dropped.
        """
        self._can_resume = can_resume
        self._folder = Path(folder)
        self._facts = json.loads(json.dumps(facts))
        self._tasks = tasks
        self._num_keys = num_keys
        self._joined = 0  # number of the parts in order that are joined
        self._parts: dict[int, dict[int, PartDone]] = {}
        self._num_parts: dict[int, int] = {}
        self._frontier = [0, 0]  # index in tasks and number of the first missing part
        self.in_order: list[PartDone] = []
        self.is_complete = False

    def __enter__(self) -> Journal:
        """Lock the folder, read the journal and verify the parts.

        Raises:
            ConfigError: another run is writing here, or the folder belongs to a run with other facts.
        """
        self._folder.mkdir(exist_ok=True)
        flush_to_disk(self._folder.absolute().parent)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self._folder / _JOURNAL, wait=False))
            except BlockingIOError:
                raise ConfigError(f"--output-prefix: another run is writing in {self._folder}") from None
            self._file = stack.enter_context((self._folder / _JOURNAL).open("a+b", buffering=0))
            self._read()
            self._drop_incomplete()
            self._advance()
            self._open_files = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Keep finished parts for the next run; without any, delete the folder."""
        self._open_files.close()
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.suffix in (".part", ".lent"):
                    path.unlink(missing_ok=True)
            if not any(self._parts.values()):
                shutil.rmtree(self._folder)

    @property
    def finished(self) -> list[PartDone]:
        """All finished parts."""
        return [part for parts in self._parts.values() for part in parts.values()]

    def done(self, task: int) -> frozenset[int]:
        """Return the numbers of a task's finished parts."""
        return frozenset(self._parts.get(task, ()))

    def is_done(self, task: int) -> bool:
        """Whether all parts of a task are finished."""
        return task in self._num_parts and len(self._parts.get(task, ())) == self._num_parts[task]

    def record(self, event: PartDone | TaskEnded) -> None:
        """Record a finished part, whose files have their names, or the end of a task."""
        self._add(event)
        self._append({"part" if isinstance(event, PartDone) else "task": asdict(event)})
        self._advance()

    def record_complete(self) -> None:
        """Record that the joined files are complete; they must be flushed to disk."""
        self.is_complete = True
        self._append({"whole": True}, flush=True)

    def join(self) -> None:
        """Append the tokens of the parts that are next in order to one file for each key, and delete their own.

        One thread may join while another records finished parts.
        """
        fresh = self.in_order[self._joined :]
        if not fresh:
            return
        for key in range(self._num_keys):
            joined = self.joined_file(key, ".bin")
            joined.touch()
            with joined.open("r+b") as target:  # copy_file_range does not accept files opened for appending
                target.seek(0, os.SEEK_END)
                for part in fresh:
                    append_file(self.part_file(part, key, ".bin"), target)
                os.fsync(target.fileno())
        for part in fresh:
            for path in self._files_to_keep(part):
                flush_to_disk(path)
        flush_to_disk(self._folder)
        self._joined += len(fresh)
        self._append({"joined": self._joined}, flush=True)
        for part in fresh:
            for key in range(self._num_keys):
                self.part_file(part, key, ".bin").unlink()

    def part_file(self, part: PartDone, key: int, suffix: str) -> Path:
        """Return the path of a file of a part."""
        return Path(part_prefix(str(self._folder), part.task, part.part, key) + suffix)

    def skipped_file(self, part: PartDone) -> Path:
        """Return the path of the list of records that a part skipped; it exists only where there are some."""
        return Path(skipped_file(str(self._folder), part.task, part.part))

    def joined_file(self, key: int, suffix: str) -> Path:
        """Return the path of a joined file, until it is moved to its final name."""
        return self._folder / f"joined-{key}{suffix}"

    def delete(self) -> None:
        """Delete the folder; all files have been moved to their final names."""
        shutil.rmtree(self._folder)

    def _files_to_keep(self, part: PartDone) -> list[Path]:
        """Return the files of a part that are kept until the end."""
        indices = [self.part_file(part, key, ".idx") for key in range(self._num_keys)]
        return [*indices, self.skipped_file(part)] if part.progress.skipped else indices

    def _append(self, line: Mapping[str, Any], *, flush: bool = False) -> None:
        content = json.dumps(line).encode() + b"\n"
        if self._file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        if flush:
            os.fsync(self._file.fileno())

    def _read(self) -> None:
        if not self._can_resume:
            self._file.truncate(0)
        self._file.seek(0)
        kept = 0
        for line in self._file.read().splitlines(keepends=True):
            entry = _parse(line)
            if entry is None:  # truncated by a kill or a power failure
                break
            if kept == 0:
                self._refuse_other_facts(entry["facts"])
            elif "part" in entry:
                self._add(_part_done(entry["part"]))
            elif "task" in entry:
                self._add(TaskEnded(**entry["task"]))
            elif "joined" in entry:
                self._joined = entry["joined"]
            else:
                self.is_complete = True
            kept += len(line)
        self._file.truncate(kept)
        if kept == 0:
            self._append({"facts": self._facts})

    def _refuse_other_facts(self, facts: Mapping[str, Any]) -> None:
        for flag, value in self._facts.items():
            if facts.get(flag) != value:
                change = (
                    f"is {_spelled(value)} and was {_spelled(facts.get(flag))} when the run in {self._folder} started"
                )
                if flag == "--input":
                    change = f"the files have changed since the run in {self._folder} started"
                raise ConfigError(f"{flag}: {change}; repeat that command, or delete the folder")

    def _add(self, event: PartDone | TaskEnded) -> None:
        if isinstance(event, PartDone):
            self._parts.setdefault(event.task, {})[event.part] = event
        else:
            self._num_parts[event.task] = event.num_parts

    def _advance(self) -> None:
        """Move the frontier past finished parts and tasks."""
        while self._frontier[0] < len(self._tasks):
            task = self._tasks[self._frontier[0]]
            part = self._parts.get(task, {}).get(self._frontier[1])
            if part is not None:
                self.in_order.append(part)
                self._frontier[1] += 1
            elif self._num_parts.get(task) == self._frontier[1]:
                self._frontier = [self._frontier[0] + 1, 0]
            else:
                break

    def _drop_incomplete(self) -> None:
        """Truncate an unfinished copy, and drop parts whose files are missing or damaged."""
        if self.is_complete:
            return
        self._advance()
        ends = [sum(part.pairs[key].bytes for part in self.in_order[: self._joined]) for key in range(self._num_keys)]
        paths = [self.joined_file(key, ".bin") for key in range(self._num_keys)]
        sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
        if any(size < end for size, end in zip(sizes, ends, strict=True)):
            self._joined, ends = 0, [0] * self._num_keys
            self._append({"joined": 0})
        for path, size, end in zip(paths, sizes, ends, strict=True):
            if size > end:
                os.truncate(path, end)
        joined = {(part.task, part.part) for part in self.in_order[: self._joined]}
        for part in self.finished:
            if (part.task, part.part) not in joined and not self._is_intact(part):
                self._parts[part.task].pop(part.part)
        self._frontier, self.in_order = [0, 0], []

    def _is_intact(self, part: PartDone) -> bool:
        """Whether the files of a part that is not joined yet match the journal."""
        try:
            for key, pair in enumerate(part.pairs):
                header = IndexHeader.read(self.part_file(part, key, ".idx"))
                if (header.num_sequences, header.num_marks) != (pair.sequences, pair.documents + 1):
                    return False
                if file_sha256(self.part_file(part, key, ".bin")) != pair.sha256:
                    return False
        except (OSError, ConfigError):
            return False
        return all(path.is_file() for path in self._files_to_keep(part))


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return an entry of the journal, None for an incomplete one."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if line.endswith(b"\n") and isinstance(entry, dict) else None


def _part_done(fields: dict[str, Any]) -> PartDone:
    progress, pairs = Progress(**fields["progress"]), tuple(Part(**pair) for pair in fields["pairs"])
    return PartDone(**{**fields, "progress": progress, "pairs": pairs})


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "given" if value else "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
