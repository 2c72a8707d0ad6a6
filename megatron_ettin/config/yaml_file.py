"""Settings from a YAML file: flag names with dashes or underscores, flat or in sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ettin.cli import suggestion
from megatron_ettin.config.run import run_options, run_sections
from megatron_ettin.errors import ConfigError

if TYPE_CHECKING:
    import yaml

PRESET_KEY = "preset"


def read_yaml(path: str) -> dict[str, object]:
    """Return the file's settings as parsed by YAML, by field name (and ``preset``).

    Raises:
        ConfigError: no such file, not YAML, not a mapping, an unknown key, or a key given twice.
    """
    settings: dict[str, object] = {}
    for name, written in _settings(_load_mapping(path), path):
        if name in settings:
            raise ConfigError(f"--config {path}: key {name} is given twice")
        settings[name] = written
    return settings


def _load_mapping(path: str) -> Mapping[object, object]:
    import yaml  # not needed without a file

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
        raise ConfigError(f"--config {path}: must be a mapping of keys to values, is a {type(loaded).__name__}")
    return loaded


def _repeated_key(node: yaml.Node | None) -> str | None:
    """Return a key that occurs twice in one mapping, of which YAML would silently keep the last."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return None
    keys = [key.value for key, _ in node.value]
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    return repeated or next(filter(None, (_repeated_key(value) for _, value in node.value)), None)


def _settings(loaded: Mapping[object, object], path: str) -> Iterator[tuple[str, object]]:
    """Yield (field name, value) of every key, including those inside sections."""
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
    """Return the field name of ``key``; inside a section only that section's fields are known."""
    option = run_options().get(_name(key))
    if option is not None and section in (None, option.section):
        return option.name
    within = f"{section}." if section else ""
    if option is not None:
        raise ConfigError(f"--config {path}: key {within}{key} belongs to section {option.section}")
    near = suggestion(_name(key), [name for name, other in run_options().items() if section in (None, other.section)])
    raise ConfigError(f"--config {path}: unknown key {within}{key}{near}")


def _name(key: object) -> str:
    return str(key).replace("-", "_")
