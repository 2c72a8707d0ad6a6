"""Whether a resumed run still means the same tokens by the same row numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from megatron_ettin.config.fields import run_options
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.fingerprint import changed_causes, order_fingerprint
from megatron_ettin.errors import ConfigError


def refuse_other_data(config: RunConfig, described: Mapping[str, Any], folder: object) -> None:
    """Refuse to resume where rows would be others than before, unless --accept-data-change was given.

    Raises:
        ConfigError: naming what changed.
    """
    before = described.get("data_order")
    if not before or config.data.accept_data_change:
        return
    tokenizer = TokenizerFiles.load(config.data.tokenizer_model)
    changed = changed_causes(before, order_fingerprint(config, tokenizer))
    if changed:
        raise ConfigError(
            f"--load {folder}: its rows came in another order; changed since then: {_told(changed)}; "
            "--accept-data-change goes on with the new order from the same row number"
        )


class OrderKeeper(Protocol):
    """The part of a run's state that tells of its data."""

    step: int
    data_order: dict[str, Any]
    data_changes: list[dict[str, Any]]
    source_rows: list[int]


def note_data(config: RunConfig, tokenizer: TokenizerFiles, state: OrderKeeper) -> tuple[str, ...]:
    """Write into a state what decides its data's order, and what of it changed; return a note of the latter."""
    now = order_fingerprint(config, tokenizer)
    changed = changed_causes(state.data_order, now) if state.data_order else {}
    state.data_order = now
    if not changed:
        return ()
    told = {name: {"was": was, "is": is_now} for name, (was, is_now) in changed.items()}
    state.data_changes = [*state.data_changes, {"step": state.step, "changed": told}]
    state.source_rows = []
    return (f"goes on with other data, as --accept-data-change says; changed: {_told(changed)}",)


def _told(changed: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(_cause(name, *values) for name, values in changed.items())


def _cause(name: str, was: Any, now: Any) -> str:
    option = run_options().get(name)
    if option is None:
        return name
    if was is None:
        return option.spell(now)
    return f"{option.spell(now)} (was {was if was != '' else repr(was)})"
