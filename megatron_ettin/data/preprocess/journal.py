"""The folder of an unfinished run: which parts are there, noted as they are finished, and joined as they come in order.

A line is appended for every finished part, after its files have their names. A run that was killed therefore loses what
it was writing at that moment and nothing else, and goes on with the same result. After a loss of power the same holds:
parts are joined, flushed to the disk and noted as joined before their own files go, and those that still wait are
checked when the run goes on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ettin.data.corpus.indexed import IndexHeader
from megatron_ettin.data.corpus.manifest import Part
from megatron_ettin.data.corpus.merge import append_file
from megatron_ettin.data.preprocess.settings import Progress
from megatron_ettin.data.preprocess.worker import PartDone, TaskEnded, part_prefix, skipped_file
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256, flush_to_disk

_JOURNAL = "journal.jsonl"


class Journal:
    """Finished parts of one run. Use as a context manager: it keeps a second run of the same out.

    Attributes:
        in_order: finished parts in the order of the input, up to the first that is missing.
        is_whole: whether only the last renaming is left to do.
    """

    def __init__(
        self, folder: str, facts: Mapping[str, Any], tasks: Sequence[int], num_keys: int, *, can_resume: bool = True
    ) -> None:
        """Take what :meth:`__enter__` opens.

        Args:
            folder: where parts lie; made where it is not there.
            facts: all that decides what is written, by the flag to name where it is not what it was.
            tasks: numbers of all tasks, in order.
            num_keys: pairs that are written.
            can_resume: whether the inputs can be read again; else what an earlier run left is dropped.
        """
        self._can_resume = can_resume
        self._folder = Path(folder)
        self._facts = json.loads(json.dumps(facts))
        self._tasks = tasks
        self._num_keys = num_keys
        self._joined = 0  # so many of the parts in order
        self._parts: dict[int, dict[int, PartDone]] = {}
        self._num_parts: dict[int, int] = {}
        self._frontier = [0, 0]  # place in tasks, part: of the first part that is missing
        self.in_order: list[PartDone] = []
        self.is_whole = False

    def __enter__(self) -> Journal:
        """Open the folder, and find out what is there already.

        Raises:
            ConfigError: another run is writing here, or one with other facts was begun.
        """
        self._folder.mkdir(exist_ok=True)
        flush_to_disk(self._folder.absolute().parent)
        self._file = (self._folder / _JOURNAL).open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(f"--output-prefix: another run is writing in {self._folder}") from None
        try:
            self._read()
            self._drop_incomplete()
            self._advance()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave finished parts for the next run; without any, the folder goes."""
        self._file.close()
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.suffix in (".part", ".lent"):
                    path.unlink(missing_ok=True)
            if not any(self._parts.values()):
                shutil.rmtree(self._folder)

    @property
    def finished(self) -> list[PartDone]:
        """All parts that are there."""
        return [part for parts in self._parts.values() for part in parts.values()]

    def done(self, task: int) -> frozenset[int]:
        """Return the parts of a task that are there."""
        return frozenset(self._parts.get(task, ()))

    def is_done(self, task: int) -> bool:
        """Whether all parts of a task are there."""
        return task in self._num_parts and len(self._parts.get(task, ())) == self._num_parts[task]

    def note(self, event: PartDone | TaskEnded) -> None:
        """Write down what is finished; a part must lie under its name."""
        self._take(event)
        self._append({"part" if isinstance(event, PartDone) else "task": asdict(event)})
        self._advance()

    def note_whole(self) -> None:
        """Write down that the joined files are complete; they must be on the disk."""
        self.is_whole = True
        self._append({"whole": True}, flush=True)

    def join(self) -> None:
        """Append the tokens of parts that have become next in order to one file for each key, and delete theirs.

        One thread may do so while another notes what is finished.
        """
        fresh = self.in_order[self._joined :]
        if not fresh:
            return
        for key in range(self._num_keys):
            joined = self.joined_file(key, ".bin")
            joined.touch()
            with joined.open("r+b") as target:  # not for appending: the kernel does not copy into such a file
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
        """Return where a file of a part lies."""
        return Path(part_prefix(str(self._folder), part.task, part.part, key) + suffix)

    def skipped_file(self, part: PartDone) -> Path:
        """Return where the records that a part left out are listed, where there are any."""
        return Path(skipped_file(str(self._folder), part.task, part.part))

    def joined_file(self, key: int, suffix: str) -> Path:
        """Return a file of the whole, which lies here until all is written."""
        return self._folder / f"joined-{key}{suffix}"

    def delete(self) -> None:
        """Take the folder away: all is under its final name."""
        shutil.rmtree(self._folder)

    def _files_to_keep(self, part: PartDone) -> list[Path]:
        """Return the files of a part that stay until the end."""
        indices = [self.part_file(part, key, ".idx") for key in range(self._num_keys)]
        return [*indices, self.skipped_file(part)] if part.progress.skipped else indices

    def _append(self, line: Mapping[str, Any], *, flush: bool = False) -> None:
        written = json.dumps(line).encode() + b"\n"
        if self._file.write(written) != len(written):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        if flush:
            os.fsync(self._file.fileno())

    def _read(self) -> None:
        if not self._can_resume:
            self._file.truncate(0)
        self._file.seek(0)
        kept = 0
        for line in self._file.read().splitlines(keepends=True):
            found = _parsed(line)
            if found is None:  # cut off by a kill, or by a loss of power
                break
            if kept == 0:
                self._refuse_other_facts(found["facts"])
            elif "part" in found:
                self._take(_part_done(found["part"]))
            elif "task" in found:
                self._take(TaskEnded(**found["task"]))
            elif "joined" in found:
                self._joined = found["joined"]
            else:
                self.is_whole = True
            kept += len(line)
        self._file.truncate(kept)
        if kept == 0:
            self._append({"facts": self._facts})

    def _refuse_other_facts(self, facts: Mapping[str, Any]) -> None:
        for flag, value in self._facts.items():
            if facts.get(flag) != value:
                told = (
                    "the files are not those it began with"
                    if isinstance(value, list) and flag == "--input"
                    else f"is {_spelled(value)} and was {_spelled(facts.get(flag))}"
                )
                rule = f"{told} when the run in {self._folder} began; repeat that command, or delete the folder"
                raise ConfigError(f"{flag}: {rule}")

    def _take(self, event: PartDone | TaskEnded) -> None:
        if isinstance(event, PartDone):
            self._parts.setdefault(event.task, {})[event.part] = event
        else:
            self._num_parts[event.task] = event.num_parts

    def _advance(self) -> None:
        """Move the frontier over what has been finished."""
        while self._frontier[0] < len(self._tasks):
            task = self._tasks[self._frontier[0]]
            found = self._parts.get(task, {}).get(self._frontier[1])
            if found is not None:
                self.in_order.append(found)
                self._frontier[1] += 1
            elif self._num_parts.get(task) == self._frontier[1]:
                self._frontier = [self._frontier[0] + 1, 0]
            else:
                break

    def _drop_incomplete(self) -> None:
        """Cut off a copy that was begun, and forget parts whose files are gone or not what they were."""
        if self.is_whole:
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
        """Whether the files of a part that waits to be joined hold what was noted."""
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


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line of the journal, None where it is no whole one."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if line.endswith(b"\n") and isinstance(found, dict) else None


def _part_done(found: dict[str, Any]) -> PartDone:
    return PartDone(
        **{
            **found,
            "progress": Progress(**found["progress"]),
            "pairs": tuple(Part(**pair) for pair in found["pairs"]),
        }
    )


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "given" if value else "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
