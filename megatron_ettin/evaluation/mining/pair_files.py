"""From Python packages or folders to train.jsonl and test.jsonl."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.mining.functions import MinedPair, hash_text, keep_different, mine_source
from megatron_ettin.files import write_json_lines

STANDARD_LIBRARY = "stdlib"
_NOT_PART_OF_IT = frozenset({"site-packages", "dist-packages"})
_HASH_RANGE = 16**8


@dataclass(frozen=True)
class Mined:
    """Pairs in two parts that share no file."""

    train: Sequence[MinedPair]
    test: Sequence[MinedPair]
    num_found: int
    """That passed the filters, before duplicates went and some were drawn."""


def mine_pairs(sources: Sequence[str], *, max_pairs: int | None, test_share: float) -> Mined:
    """Mine, drop duplicates, draw at most ``max_pairs``, and split by files.

    Everything is decided by hashes of paths and names: a machine with the same sources has the same pairs, and a file
    stays in its part when others come or go.

    Raises:
        ConfigError: a source is no folder and no package, or a part would be empty.
    """
    found = [pair for source in sources for pair in mine_package(source)]
    different = drop_duplicates(sorted(found, key=lambda pair: pair.order))[:max_pairs]
    test = [pair for pair in different if is_for_test(pair.file, test_share)]
    train = [pair for pair in different if not is_for_test(pair.file, test_share)]
    for name, part in (("train", train), ("test", test)):
        if not part:
            given = " ".join(sources)
            raise ConfigError(f"--source {given}: {len(different)} pairs leave none for {name}; give more sources")
    return Mined(train, test, len(found))


def mine_package(source: str) -> Iterator[MinedPair]:
    """Yield the pairs of a folder, a package's name, or the standard library.

    Raises:
        ConfigError: there is no such folder or package.
    """
    root, paths = _find_files(source)
    for path in paths:
        yield from mine_source(path.read_text(encoding="utf-8", errors="replace"), path.relative_to(root).as_posix())


def drop_duplicates(pairs: Iterable[MinedPair]) -> list[MinedPair]:
    """Keep the first of pairs with the same query, whatever its case, and of those with near-identical functions."""
    by_query: dict[str, MinedPair] = {}
    for pair in pairs:
        by_query.setdefault(" ".join(pair.query.casefold().split()).rstrip("."), pair)
    different = list(by_query.values())
    return [different[index] for index in keep_different([pair.positive for pair in different])]


def is_for_test(file: str, test_share: float) -> bool:
    """Whether a file's pairs are for the test."""
    return int(hash_text(f"split:{file}")[:8], 16) < test_share * _HASH_RANGE


def write_pairs(mined: Mined, output: Path) -> None:
    """Write OUTPUT/train.jsonl and OUTPUT/test.jsonl; both appear when both are whole."""
    parts = {"train": mined.train, "test": mined.test}
    write_json_lines({output / f"{name}.jsonl": [_row(pair) for pair in pairs] for name, pairs in parts.items()})


def _row(pair: MinedPair) -> dict[str, str]:
    return {"query": pair.query, "positive": pair.positive, "source": f"{pair.file}:{pair.function}"}


def _find_files(source: str) -> tuple[Path, list[Path]]:
    """Return the folder that paths are told from, and the Python files."""
    if source == STANDARD_LIBRARY:
        root = Path(sysconfig.get_path("stdlib"))
        paths = (path for path in root.rglob("*.py") if _NOT_PART_OF_IT.isdisjoint(path.relative_to(root).parts))
        return root, sorted(paths)
    folder = Path(source)
    if folder.is_dir():
        return folder.resolve().parent, sorted(folder.resolve().rglob("*.py"))
    if "/" in source or not source.isidentifier():
        raise ConfigError(f"--source {source}: there is no such folder, and it is no package's name")
    spec = PathFinder.find_spec(source)
    if spec is not None and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        return package.parent, sorted(package.rglob("*.py"))
    if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
        return Path(spec.origin).parent, [Path(spec.origin)]
    raise ConfigError(f"--source {source}: there is no such folder, and no such package with sources is installed")
