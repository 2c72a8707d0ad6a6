"""Resolve ``--input`` to files: expand globs and folders, and detect the kind and compression of each file."""

from __future__ import annotations

import codecs
import glob
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from megatron_ettin.data.preprocess.readers.decompress import READ_BYTES, Damaged, read_decompressed
from megatron_ettin.data.preprocess.readers.records import InputFile
from megatron_ettin.errors import ConfigError

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst", ".bz2": "bz2", ".xz": "xz"}
KINDS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".txt": "text", ".parquet": "parquet", ".mds": "mds"}
MDS_INDEX = "index.json"
OWN_ENDINGS = (".parts", ".punkt", ".manifest.json", ".skipped.jsonl")
"""Outputs of preprocessing, which are not inputs even in the same folder."""
_SIDE_FILE = re.compile(
    r"(dataset_infos?|dataset_dict|state)\.json|_SUCCESS|_(common_)?metadata|_(committed|started)_.*"
    r"|(README|LICEN[CS]E)(\..*)?|(MD5|SHA(1|256|512))SUMS?(\.txt)?|.*\.(crc|md5|sha1|sha256)",
    re.IGNORECASE,
)
"""Files that datasets, Spark and downloads leave next to the data."""
_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}
_READABLE = f"{', '.join(KINDS)} or JSON lines, plain, .gz, .zst, .bz2 or .xz"
_MOST_NAMED = 20
"""Files left out that are named on stderr."""


def find_inputs(given: Sequence[str], flag: str = "--input") -> list[InputFile]:
    """Return the files of :func:`expand_inputs`, and name those that are left out on stderr.

    Raises:
        ConfigError: an input does not exist, or contains nothing to read.
    """
    files, left_out = expand_inputs(given, flag)
    for line in left_out_lines(left_out, flag):
        sys.stderr.write(f"{line}\n")
    return files


def expand_inputs(given: Sequence[str], flag: str = "--input") -> tuple[list[InputFile], list[str]]:
    """Return the files in the given order, and the paths of files of folders and globs that are not of a known format.

    The files of a glob or a folder are sorted by name. A folder stands for all files below it of a known suffix or
    content, or for the shards that an MDS index.json lists; a glob stands for the files and folders that match.

    Raises:
        ConfigError: an input does not exist, or contains nothing to read.
    """
    left_out: list[str] = []
    return [file for entry in given for file in _expand(entry, flag, left_out)], left_out


def left_out_lines(left_out: Sequence[str], flag: str = "--input") -> list[str]:
    """Return the notice about files that are left out."""
    lines = [f"{flag} {path}: left out (neither a known suffix nor JSON lines)" for path in left_out[:_MOST_NAMED]]
    if len(left_out) > _MOST_NAMED:
        lines.append(f"{flag}: {len(left_out) - _MOST_NAMED} more files are left out; the manifest names all")
    return lines


def by_content_lines(files: Sequence[InputFile], flag: str = "--input") -> list[str]:
    """Return the notice about files without a known suffix, which are read by their content."""
    unknown = [file for file in files if not file.is_pipe and _suffixes(Path(file.path))[0] not in KINDS]
    lines = [f"{flag} {file.path}: no known suffix, read as {file.kind}" for file in unknown[:_MOST_NAMED]]
    if len(unknown) > _MOST_NAMED:
        lines.append(f"{flag}: {len(unknown) - _MOST_NAMED} more files are read by their content")
    return lines


def _expand(entry: str, flag: str, left_out: list[str]) -> Iterator[InputFile]:
    path = Path(entry)
    if path.is_dir():
        files = list(_folder_files(path, flag, left_out))
        if not files:
            raise ConfigError(f"{flag} {entry}: the folder has no file to read ({_READABLE})")
        yield from files
    elif path.exists():
        yield from _mds_shards(path, flag) if _is_mds_index(path) else [_describe(path)]
    elif glob.has_magic(entry):
        names = sorted(glob.glob(entry, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        if not names:
            raise ConfigError(f"{flag} {entry}: no file matches")
        files = list(_matching_files(names, flag, left_out))
        if not files:
            raise ConfigError(f"{flag} {entry}: no matching file can be read ({_READABLE})")
        yield from files
    else:
        raise ConfigError(f"{flag} {entry}: there is no such file")


def _matching_files(names: Sequence[str], flag: str, left_out: list[str]) -> Iterator[InputFile]:
    """Yield the files to read of a glob's matches, by the rules of a folder."""
    paths = [Path(name) for name in names]
    parents = {parent for path in paths for parent in path.parents}
    mds_folders = {path.parent for path in paths if _is_mds_index(path)}
    for path in paths:
        if path.is_dir():
            if path not in parents:  # else its files match themselves
                yield from _folder_files(path, flag, left_out)
        elif _is_mds_index(path):
            yield from _mds_shards(path, flag)
        elif path.parent not in mds_folders:
            yield from _known_file(path, left_out)


def _folder_files(folder: Path, flag: str, left_out: list[str], parents: tuple[Path, ...] = ()) -> Iterator[InputFile]:
    """Yield the files to read below a folder, folder by folder."""
    index = folder / MDS_INDEX
    if _is_mds_index(index):
        yield from _mds_shards(index, flag)
        return
    visited = (*parents, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            is_own = path.name.startswith(".") or path.name.endswith(OWN_ENDINGS)
            if not is_own and path.resolve() not in visited:  # a symbolic link to a parent would recurse forever
                yield from _folder_files(path, flag, left_out, visited)
        else:
            yield from _known_file(path, left_out)


def _known_file(path: Path, left_out: list[str]) -> Iterator[InputFile]:
    """Yield a file of a known suffix or content; side files are passed over, others added to ``left_out``."""
    if path.name.startswith(".") or path.name.endswith(OWN_ENDINGS) or _SIDE_FILE.fullmatch(path.name):
        return
    if _suffixes(path)[0] in KINDS or not path.is_file():
        yield _describe(path)
        return
    content = _kind_of_content(path)
    if content is None:
        left_out.append(str(path))
    else:
        yield _describe(path, content)


def _kind_of_content(path: Path) -> tuple[str, str] | None:
    """Return kind and compression of a parquet file or of lines of JSON objects; None for other content."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PAR1"):
        return "parquet", ""
    compression = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")
    head = b""
    with suppress(Damaged):
        for chunk, _ in read_decompressed(str(path), compression):
            head += chunk
            if len(head) >= READ_BYTES:
                break
    lines = head.removeprefix(codecs.BOM_UTF8).lstrip().split(b"\n", 1)
    if len(lines) == 1 and len(head) >= READ_BYTES:  # one line longer than what was read
        return ("json", compression) if re.match(rb'\{\s*"', lines[0]) else None
    try:
        is_object = isinstance(json.loads(lines[0]), dict)
    except ValueError:
        return None
    return ("json", compression) if is_object else None


def _suffixes(path: Path) -> tuple[str, str]:
    """Return the suffix of a file's kind, and that of its compression or nothing."""
    name = path.name.lower()
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    return Path(name.removesuffix(compression)).suffix, compression


def _describe(path: Path, content: tuple[str, str] | None = None) -> InputFile:
    """Describe a file by its suffix, or by its content where that is unknown, or else as lines of JSON."""
    suffix, compression_suffix = _suffixes(path)
    kind, compression = KINDS.get(suffix, "json"), COMPRESSIONS.get(compression_suffix, "")
    if suffix not in KINDS and path.is_file():
        kind, compression = content or _kind_of_content(path) or (kind, compression)
    stat = path.stat()
    return InputFile(
        path=str(path),
        kind=kind,
        compression=compression,
        num_bytes=stat.st_size if path.is_file() else 0,
        changed_ns=stat.st_mtime_ns if path.is_file() else 0,
        is_pipe=not path.is_file(),
    )


def _is_mds_index(path: Path) -> bool:
    if path.name != MDS_INDEX or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"shards"' in file.read()


def _mds_shards(index: Path, flag: str) -> Iterator[InputFile]:
    """Yield the shards that an index lists, raw or compressed as they are on disk.

    Raises:
        ConfigError: the file is not an index, or a shard is missing or differs in size from the index.
    """
    try:
        shards = json.loads(index.read_bytes())["shards"]
        all_forms = [[shard["raw_data"], shard["zip_data"]] for shard in shards]
        formats = {shard["format"] for shard in shards}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{flag} {index}: is not an index of MDS shards") from None
    if formats - {"mds"}:
        raise ConfigError(f"{flag} {index}: lists shards of format {', '.join(formats)}; only mds is read")
    for forms in all_forms:
        names = [index.parent / form["basename"] for form in forms if form]
        path, size = next(
            ((name, form["bytes"]) for name, form in zip(names, filter(None, forms), strict=True) if name.is_file()),
            (None, 0),
        )
        if path is None:
            raise ConfigError(f"{flag} {index}: lists {names[-1].name}, which does not exist")
        file = _describe(path)
        if file.num_bytes != size:
            raise ConfigError(f"{flag} {path}: has {file.num_bytes} bytes, its index says {size}")
        if file.kind != "mds":
            raise ConfigError(f"{flag} {path}: has an unsupported compression; use zstd or gzip")
        yield file
