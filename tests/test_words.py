"""The field's words, in prose and in names: what the style guide replaces does not come back."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".md", ".sh", ".sbatch", ".toml", ".yaml"}
NAMES = {"Makefile", "Dockerfile", "run"}

REPLACED = {
    r"told|tell|tells|telling": "report, log, contain, state, name",
    r"(go|goes|going|gone|went) on": "resume, continue",
    r"behind": "after",
    r"beside": "next to, as well as",
    r"so many": "that many, the given",
    r"whoever|whosoever": "callers that, users who",
    r"former": "previous",
    r"(hold|holds|held|holding) no": "has no",
    r"for want of": "without, for lack of",
    r"(take|takes|taken|taking) up": "resume, restore",
    r"mend|mends|mended|mending": "fix",
}
"""Words, as patterns of whole words, and what to write instead."""

ALLOWED: dict[str, tuple[str, ...]] = {
    "tests/test_words.py": (".*",),
    "megatron_ettin/doctor/report.py": (r'"told": .*, "mend": ',),
    "tests/doctor/test_doctor.py": (r'\["told"\]|"told": "2\.10\.0"',),
    "megatron_ettin/checkpoint/folder/integrity.py": (r"def tell\(self\)",),
    "megatron_ettin/data/corpus/file_mapping.py": (r"file\.tell\(\)",),
    "tests/checkpoint/folder/test_integrity.py": (r"file\.tell\(\)",),
}
"""File -> lines that may contain such a word all the same: quotations, as patterns."""

FORBIDDEN = re.compile(rf"(?<![A-Za-z])({'|'.join(REPLACED)})(?![A-Za-z])", re.IGNORECASE)


def sources() -> list[str]:
    """Return the files of the project that people read, relative to its root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [Path(line) for line in listed.stdout.splitlines()]
    return sorted(str(path) for path in paths if path.suffix in SUFFIXES or path.name in NAMES)


def split_names(text: str) -> str:
    """Return a text whose names are split into words: ``toldByLaunch`` and ``told_by_launch`` become words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text)


def words_found(path: Path) -> Iterator[str]:
    """Yield ``line: word (write ...)`` for each replaced word of a file that is not an allowed quotation."""
    allowed = [re.compile(pattern) for pattern in ALLOWED.get(str(path.relative_to(ROOT)), ())]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for match in FORBIDDEN.finditer(split_names(line)):
            if not any(pattern.search(line) for pattern in allowed):
                word = match.group(1)
                instead = next(new for old, new in REPLACED.items() if re.fullmatch(old, word, re.IGNORECASE))
                yield f"{number}: {word!r} (write {instead})"


def test_replaced_words_do_not_come_back() -> None:
    found = [f"{source}:{word}" for source in sources() for word in words_found(ROOT / source)]
    assert found == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("def told_by_launch():", True),
        ("x = formerMask", True),
        ("# the run goes on", True),
        ("a former transformer", True),
        ("the transformer performs", False),
        ("information foretold", False),
        ("the folder holds no checkpoint", True),
        ("so manyfold", False),
    ],
)
def test_words_are_whole(line: str, found: bool) -> None:
    assert bool(FORBIDDEN.search(split_names(line))) is found
