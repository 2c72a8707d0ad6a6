"""What a launch came to, for the box at its end."""

from __future__ import annotations

from megatron_ettin.checkpoint.folder.layout import step_folder_name
from megatron_ettin.train.trainer import Session


def summary(session: Session) -> tuple[str, dict[str, str]]:
    """Return a title and the rows below it."""
    config, state = session.config, session.state
    save = config.checkpoint.save
    rows = {"steps": f"{state.step:,}", "tokens": f"{state.consumed_tokens:,}"}
    if config.training.train_tokens:
        rows["tokens"] += f" of {config.training.train_tokens:,}"
    else:
        rows["steps"] += f" of {config.training.train_iters:,}"
    if session.record:
        rows["loss"] = f"{session.first_record['loss']:.4f} -> {session.record['loss']:.4f}"
        rows["tokens/s"] = f"{session.record['tokens_per_second']:,.0f}"
    if state.validation_loss is not None:
        rows["validation loss"] = f"{state.validation_loss:.4f}"
    if session.stop_reason:
        rows["stopped by"] = session.stop_reason
    if session.stop_reason and not session.record:
        rows["checkpoint"] = "none new: stopped before the first step of this launch"
    else:
        rows["checkpoint"] = f"{save}/{step_folder_name(state.step)}"
    if not session.is_complete:
        rows["go on with"] = f"--load {save}"
    return ("trained" if session.is_complete else "stopped"), rows
