"""Draw the loss curves of several runs into one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE
from megatron_ettin.checkpoint.folder.metrics_file import LossCurve, read_loss_curve
from megatron_ettin.cli import ToolParser, console_script, png_path
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.run_reports.figures import draw_losses


@console_script
def main(arguments: Sequence[str]) -> int:
    """Draw the curves."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a --save folder, or LABEL=FOLDER to choose its label")
    parser.add_argument("--output", required=True, type=png_path, metavar="FILE.png", help="the PNG to write")
    options = parser.parse(arguments)
    curves: dict[str, LossCurve] = {}
    for argument in options.runs:
        label, folder = _label_and_folder(argument)
        if label in curves:
            raise ConfigError(f"RUN {argument}: another run has the label {label}; write LABEL={folder}")
        curves[label] = _curve(folder)
    try:
        draw_losses(curves, Path(options.output))
    except ValueError as error:
        raise ConfigError(f"RUN: {error}") from error
    print(f"wrote {options.output}")
    return 0


def _label_and_folder(argument: str) -> tuple[str, Path]:
    label, separator, path = argument.rpartition("=")
    folder = Path(path)
    return (label, folder) if separator else (folder.resolve().name, folder)


def _curve(folder: Path) -> LossCurve:
    metrics = folder / METRICS_FILE
    if not metrics.is_file():
        raise ConfigError(f"RUN {folder}: there is no {metrics}")
    try:
        return read_loss_curve(metrics)
    except ValueError as error:
        raise ConfigError(f"RUN {folder}: {error}") from error


if __name__ == "__main__":
    main()
