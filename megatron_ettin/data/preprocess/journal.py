"""The folder of an unfinished run: which parts are there, noted as they are finished, and joined as they come in order.

A line is appended for every finished part, after its files have their names. A run that was killed therefore loses what
it was writing at that moment and nothing else, and goes on with the same result.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.data.manifest import Part
from megatron_ettin.data.merge import append_file
from megatron_ettin.data.preprocess.settings import Progress
from megatron_ettin.data.preprocess.work import PartDone, Skipped, TaskEnded, part_prefix

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
        self._joined = [0] * num_keys
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
        """Write down that the joined files are complete."""
        self.is_whole = True
        self._append({"whole": True})

    def join(self) -> None:
        """Append the tokens of parts that have become next in order to one file for each key, and delete theirs."""
        for key in range(len(self._joined)):
            while self._joined[key] < len(self.in_order):
                source = self.part_file(self.in_order[self._joined[key]], key, ".bin")
                joined = self.joined_file(key, ".bin")
                joined.touch()
                with joined.open("r+b") as target:  # not for appending: the kernel does not copy into such a file
                    target.seek(0, os.SEEK_END)
                    append_file(source, target)
                source.unlink()
                self._joined[key] += 1

    def part_file(self, part: PartDone, key: int, suffix: str) -> Path:
        """Return where a file of a part lies."""
        return Path(part_prefix(str(self._folder), part.task, part.part, key) + suffix)

    def joined_file(self, key: int, suffix: str) -> Path:
        """Return a file of the whole, which lies here until all is written."""
        return self._folder / f"joined-{key}{suffix}"

    def delete(self) -> None:
        """Take the folder away: all is under its final name."""
        shutil.rmtree(self._folder)

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")

    def _read(self) -> None:
        if not self._can_resume:
            self._file.truncate(0)
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        # The last piece is empty, or a line that a kill cut off.
        self._file.truncate(sum(len(line) + 1 for line in lines[:-1]))
        if not lines[:-1]:
            self._append({"facts": self._facts})
        for number, line in enumerate(lines[:-1]):
            found = json.loads(line)
            if number == 0:
                self._refuse_other_facts(found["facts"])
            elif "part" in found:
                self._take(_part_done(found["part"]))
            elif "task" in found:
                self._take(TaskEnded(**found["task"]))
            else:
                self.is_whole = True

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
        """Find out how far each key is joined, cut off a copy that was begun, and forget parts whose files are gone."""
        if self.is_whole:
            return
        self._advance()
        for key in range(len(self._joined)):
            path = self.joined_file(key, ".bin")
            size = path.stat().st_size if path.is_file() else 0
            end = 0
            for part in self.in_order:
                num_bytes = part.pairs[key].bytes
                if self.part_file(part, key, ".bin").is_file() or end + num_bytes > size:
                    break
                end += num_bytes
                self._joined[key] += 1
            if size:
                os.truncate(path, end)
        joined_parts = [{(part.task, part.part) for part in self.in_order[:joined]} for joined in self._joined]
        for part in self.finished:
            for key, joined in enumerate(joined_parts):
                tokens = self.part_file(part, key, ".bin")
                is_joined = (part.task, part.part) in joined
                if not is_joined and not (tokens.is_file() and tokens.stat().st_size == part.pairs[key].bytes):
                    self._parts[part.task].pop(part.part, None)
        self._frontier, self.in_order = [0, 0], []


def _part_done(found: dict[str, Any]) -> PartDone:
    return PartDone(
        **{
            **found,
            "progress": Progress(**found["progress"]),
            "pairs": tuple(Part(**pair) for pair in found["pairs"]),
            "skipped": tuple(Skipped(**skipped) for skipped in found["skipped"]),
        }
    )


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "given" if value else "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
