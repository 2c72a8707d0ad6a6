"""Files that stand in two places and take space in one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_tree(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Give every file under ``source`` a second name under ``target``; copies where the disk has no hard links.

    Args:
        source: a folder.
        target: a folder that is there.
        leave_out: names at the top of ``source`` that are not wanted.
    """
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if relative.parts[0] in leave_out or not path.is_file():
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target / relative)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, target / relative)
