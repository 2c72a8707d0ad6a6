"""The files that ``--input`` names: globs and folders written out, each file with what it is."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_ettin.data.preprocess.readers.records import InputFile
from megatron_ettin.errors import ConfigError

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
KINDS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".txt": "text", ".parquet": "parquet", ".mds": "mds"}
MDS_INDEX = "index.json"
OWN_ENDINGS = (".parts", ".punkt", ".manifest.json", ".skipped.jsonl")
"""What preprocessing itself writes is no input, should it lie in the same folder."""


def find_inputs(given: Sequence[str], flag: str = "--input") -> list[InputFile]:
    """Return the files that are meant, in the given order; those of a glob or a folder by name.

    A folder stands for all files below it with a known ending, and for the shards of an index.json of MDS.

    Raises:
        ConfigError: something is not there, or there is nothing to read in it.
    """
    return [file for entry in given for file in _expand(entry, flag)]


def _expand(entry: str, flag: str) -> Iterator[InputFile]:
    path = Path(entry)
    if path.is_dir():
        found = list(_folder_files(path, flag))
        if not found:
            endings = ", ".join(KINDS)
            raise ConfigError(f"{flag} {entry}: the folder holds no file to read ({endings}, plain, .gz or .zst)")
        yield from found
    elif path.exists():
        yield from _mds_shards(path, flag) if _is_mds_index(path) else [_describe(path)]
    elif glob.has_magic(entry):
        names = sorted(glob.glob(entry, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        if not names:
            raise ConfigError(f"{flag} {entry}: no file matches")
        for name in names:
            if not Path(name).is_dir():
                yield from _expand(name, flag)
    else:
        raise ConfigError(f"{flag} {entry}: there is no such file")


def _folder_files(folder: Path, flag: str, above: tuple[Path, ...] = ()) -> Iterator[InputFile]:
    """Yield what is to be read below a folder, folder by folder."""
    index = folder / MDS_INDEX
    if _is_mds_index(index):
        yield from _mds_shards(index, flag)
        return
    inside = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(OWN_ENDINGS):
            continue
        if path.is_dir():
            if path.resolve() not in inside:  # a link that leads back would give all of it again and again
                yield from _folder_files(path, flag, inside)
        elif _ending(path)[0] in KINDS:
            yield _describe(path)


def _ending(path: Path) -> tuple[str, str]:
    """Return what the file is and how it is compressed, as endings."""
    name = path.name.lower()
    packed = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return Path(name.removesuffix(packed)).suffix, packed


def _describe(path: Path) -> InputFile:
    """Tell a file by its ending; an unknown one is taken for lines of JSON."""
    kind, packed = _ending(path)
    about = path.stat()
    return InputFile(
        path=str(path),
        kind=KINDS.get(kind, "json"),
        compression=COMPRESSIONS.get(packed, ""),
        num_bytes=about.st_size if path.is_file() else 0,
        changed_ns=about.st_mtime_ns if path.is_file() else 0,
        is_pipe=not path.is_file(),
    )


def _is_mds_index(path: Path) -> bool:
    if path.name != MDS_INDEX or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"shards"' in file.read()


def _mds_shards(index: Path, flag: str) -> Iterator[InputFile]:
    """Yield the shards that an index lists, each as it lies there, raw or compressed.

    Raises:
        ConfigError: the index is none, or a shard is missing or has another size than the index says.
    """
    try:
        shards = json.loads(index.read_bytes())["shards"]
        kept = [[shard["raw_data"], shard["zip_data"]] for shard in shards]
        formats = {shard["format"] for shard in shards}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{flag} {index}: is no index of MDS shards") from None
    if formats - {"mds"}:
        raise ConfigError(f"{flag} {index}: lists shards of format {', '.join(formats)}; only mds is read")
    for forms in kept:
        names = [index.parent / form["basename"] for form in forms if form]
        path, size = next(
            ((name, form["bytes"]) for name, form in zip(names, filter(None, forms), strict=True) if name.is_file()),
            (None, 0),
        )
        if path is None:
            raise ConfigError(f"{flag} {index}: lists {names[-1].name}, which is not there")
        file = _describe(path)
        if file.num_bytes != size:
            raise ConfigError(f"{flag} {path}: has {file.num_bytes} bytes, its index says {size}")
        if file.kind != "mds":
            raise ConfigError(f"{flag} {path}: is compressed in a way that is not read; only zstd and gzip are")
        yield file
