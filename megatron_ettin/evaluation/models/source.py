"""Finding the files of a model given on the command line: a folder, a revision of a release, or a name on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.cli import suggestion
from megatron_ettin.errors import ConfigError, first_line
from megatron_ettin.evaluation.models.weights import CONFIG_FILE

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMON_NAMES = frozenset({"hf", "main", "model"})
"""Folder names that do not identify a model."""


@dataclass(frozen=True)
class ModelSource:
    """A model's local files."""

    name: str
    """Usable as a folder name."""
    folder: Path
    revision: str
    """Empty for main."""


def find_model(given: str) -> ModelSource:
    """Find the files of FOLDER, FOLDER@REVISION, NAME or NAME@REVISION, and download those of a name on the Hub.

    FOLDER may be a release of ``tools/release.py``, whose revisions can be named; the default is its main.

    Raises:
        ConfigError: there is no such folder, revision or name, or the Hub cannot be reached.
    """
    if Path(given).is_dir():
        return _in_folder(Path(given), "")
    model, _, revision = given.rpartition("@") if "@" in given else (given, "", "")
    if Path(model).is_dir():
        return _in_folder(Path(model), revision)
    if given.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(model):
        raise ConfigError(f"--model {given}: there is no such folder, and it is not a name on the Hub")
    return ModelSource(_join(model.replace("/", "--"), revision), _fetch(given, model, revision), revision)


def _in_folder(folder: Path, revision: str) -> ModelSource:
    root = folder.parent if folder.name == "main" and (folder.parent / "revisions").is_dir() else folder
    if revision:
        known = sorted(path.name for path in (root / "revisions").glob("*"))
        if revision not in known:
            content = f"has {len(known)} revisions, such as {known[0]}" if known else "is not a release with revisions"
            raise ConfigError(f"--model {folder}@{revision}: {folder} {content}{suggestion(revision, known)}")
        return ModelSource(_join(_name_of(root), revision), root / "revisions" / revision, revision)
    is_release = not (folder / CONFIG_FILE).is_file() and (folder / "main" / CONFIG_FILE).is_file()
    return ModelSource(_name_of(folder), folder / "main" if is_release else folder, "")


def _name_of(folder: Path) -> str:
    """Return the last part of the path that identifies the model, with the revision for a revision's folder."""
    parts = [part for part in folder.resolve().parts if part != "/"]
    if len(parts) > 2 and parts[-2] == "revisions":
        return _join(parts[-3], parts[-1])
    return next((part for part in reversed(parts) if part not in _COMMON_NAMES), "model")


def _join(name: str, revision: str) -> str:
    return f"{name}@{revision.replace('/', '--')}" if revision else name


def _fetch(given: str, name: str, revision: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=list(_FILES), ignore_patterns=["*/*"])
        )
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"--model {given}: {name} has no revision {revision} on the Hub") from error
    except errors.GatedRepoError as error:
        raise ConfigError(f"--model {given}: the Hub requires a login for it: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(f"--model {given}: there is no such folder, and no model of this name on the Hub") from error
    except errors.LocalEntryNotFoundError as error:
        raise ConfigError(
            f"--model {given}: there is no such folder, and the Hub cannot be reached to look up the name"
        ) from error
    except (errors.HFValidationError, errors.HfHubHTTPError) as error:
        raise ConfigError(f"--model {given}: the Hub refused: {first_line(error)}") from error
