"""Settings from a YAML file: flag names, with dashes or underscores, flat or in the sections of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ettin.cli import suggestion
from megatron_ettin.config.fields import run_options, run_sections
from megatron_ettin.errors import ConfigError

if TYPE_CHECKING:
    import yaml

PRESET_KEY = "preset"


def read_yaml(path: str) -> dict[str, object]:
    """Return what the file sets, by field name (and ``preset``), as YAML read it.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, an unknown key, or a key given twice.
    """
    found: dict[str, object] = {}
    for name, written in _settings(_load_mapping(path), path):
        if name in found:
            raise ConfigError(f"--config {path}: key {name} is given twice")
        found[name] = written
    return found


def _load_mapping(path: str) -> Mapping[object, object]:
    import yaml  # only a run with a file pays for it

    try:
        text = Path(path).read_bytes()
        loaded = yaml.safe_load(text)
        repeated = _repeated_key(yaml.compose(text, Loader=yaml.SafeLoader))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # a bad date is a ValueError
        raise ConfigError(f"--config {path}: is not YAML: {' '.join(str(error).split())}") from error
    if repeated is not None:
        raise ConfigError(f"--config {path}: key {repeated} is given twice")
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"--config {path}: must hold keys with values, holds a {type(loaded).__name__}")
    return loaded


def _repeated_key(node: yaml.Node | None) -> str | None:
    """Return a key that one mapping of the file gives twice: YAML would silently keep the last."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return None
    keys = [key.value for key, _ in node.value]
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    return repeated or next(filter(None, (_repeated_key(value) for _, value in node.value)), None)


def _settings(loaded: Mapping[object, object], path: str) -> Iterator[tuple[str, object]]:
    """Yield (field name, value) of every key, sections opened."""
    for key, written in loaded.items():
        section = _name(key)
        if section in run_sections() and isinstance(written, dict | None):
            for inner, inner_written in (written or {}).items():
                yield _known(inner, section, path), inner_written
        elif section == PRESET_KEY:
            yield PRESET_KEY, written
        else:
            yield _known(key, None, path), written


def _known(key: object, section: str | None, path: str) -> str:
    """Return the field name that ``key`` stands for; inside a section only that section's fields are known."""
    names = {made.flag[2:].replace("-", "_"): made for made in run_options().values()}
    found = names.get(_name(key))
    if found is not None and section in (None, found.section):
        return found.name
    within = f"{section}." if section else ""
    if found is not None:
        raise ConfigError(f"--config {path}: key {within}{key} belongs to section {found.section}")
    near = suggestion(_name(key), [n for n, made in names.items() if section in (None, made.section)])
    raise ConfigError(f"--config {path}: unknown key {within}{key}{near}")


def _name(key: object) -> str:
    return str(key).replace("-", "_")
