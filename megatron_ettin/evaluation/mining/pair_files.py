"""Mine pairs from Python packages or folders, and write them to train.jsonl and test.jsonl."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.mining.functions import MinedPair, drop_near_duplicates, hash_text, mine_source
from megatron_ettin.files import write_json_lines

STANDARD_LIBRARY = "stdlib"
_INSTALLED_PACKAGES = frozenset({"site-packages", "dist-packages"})
_HASH_RANGE = 16**8


@dataclass(frozen=True)
class Mined:
    """Pairs in two splits that share no file."""

    train: Sequence[MinedPair]
    test: Sequence[MinedPair]
    num_found: int
    """Pairs that passed the filters, duplicates included."""


def mine_pairs(sources: Sequence[str], *, max_pairs: int | None, test_share: float) -> Mined:
    """Mine pairs, drop duplicates, sample at most ``max_pairs``, and split them by file.

    All choices depend on hashes of paths and names only: equal sources give equal pairs on every machine, and adding
    or removing a file does not move the others to another split.

    Raises:
        ConfigError: a source is neither a folder nor a package, or a split would be empty.
    """
    pairs = [pair for source in sources for pair in mine_package(source)]
    distinct = drop_duplicates(sorted(pairs, key=lambda pair: pair.order))[:max_pairs]
    test = [pair for pair in distinct if is_for_test(pair.file, test_share)]
    train = [pair for pair in distinct if not is_for_test(pair.file, test_share)]
    for name, split in (("train", train), ("test", test)):
        if not split:
            given = " ".join(sources)
            raise ConfigError(f"--source {given}: {len(distinct)} pairs leave none for {name}; give more sources")
    return Mined(train, test, len(pairs))


def mine_package(source: str) -> Iterator[MinedPair]:
    """Yield the pairs of a folder, an installed package, or the standard library.

    Raises:
        ConfigError: there is no such folder or package.
    """
    root, paths = _find_files(source)
    for path in paths:
        yield from mine_source(path.read_text(encoding="utf-8", errors="replace"), path.relative_to(root).as_posix())


def drop_duplicates(pairs: Iterable[MinedPair]) -> list[MinedPair]:
    """Keep the first of the pairs with equal queries, ignoring case, and of those with near-duplicate functions."""
    by_query: dict[str, MinedPair] = {}
    for pair in pairs:
        by_query.setdefault(" ".join(pair.query.casefold().split()).rstrip("."), pair)
    distinct = list(by_query.values())
    return [distinct[index] for index in drop_near_duplicates([pair.positive for pair in distinct])]


def is_for_test(file: str, test_share: float) -> bool:
    """Whether a file's pairs are in the test split."""
    return int(hash_text(f"split:{file}")[:8], 16) < test_share * _HASH_RANGE


def write_pairs(mined: Mined, output: Path) -> None:
    """Write OUTPUT/train.jsonl and OUTPUT/test.jsonl; both appear when both are complete."""
    splits = {"train": mined.train, "test": mined.test}
    write_json_lines({output / f"{name}.jsonl": [_row(pair) for pair in pairs] for name, pairs in splits.items()})


def _row(pair: MinedPair) -> dict[str, str]:
    return {"query": pair.query, "positive": pair.positive, "source": f"{pair.file}:{pair.function}"}


def _find_files(source: str) -> tuple[Path, list[Path]]:
    """Return the folder that paths are relative to, and the Python files."""
    if source == STANDARD_LIBRARY:
        root = Path(sysconfig.get_path("stdlib"))
        paths = (path for path in root.rglob("*.py") if _INSTALLED_PACKAGES.isdisjoint(path.relative_to(root).parts))
        return root, sorted(paths)
    folder = Path(source)
    if folder.is_dir():
        return folder.resolve().parent, sorted(folder.resolve().rglob("*.py"))
    if "/" in source or not source.isidentifier():
        raise ConfigError(f"--source {source}: there is no such folder, and it is not a package name")
    spec = PathFinder.find_spec(source)
    if spec is not None and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        return package.parent, sorted(package.rglob("*.py"))
    if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
        return Path(spec.origin).parent, [Path(spec.origin)]
    raise ConfigError(f"--source {source}: there is no such folder, and no such package with sources is installed")
