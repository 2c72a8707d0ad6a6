"""Compare an encoder, a decoder and the two models made from them, from the runs of examples/ettin_nano.sh."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE, read_run_json, resolve_checkpoint
from megatron_ettin.checkpoint.folder.metrics_file import read_loss_curve
from megatron_ettin.cli import ToolParser, console_script
from megatron_ettin.config.objectives import RELEASED_OBJECTIVES
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.run_reports.four_way import FinishedPhase, FourWayModel, draw_four_lines, four_way_text

_ENCODER = ("encoder/pretrain", "encoder/extend", "encoder/decay")
_DECODER = ("decoder/pretrain", "decoder/extend", "decoder/decay")
_PHASE_FOLDERS = {
    "encoder": _ENCODER,
    "decoder": _DECODER,
    "encoder_from_decoder": (*_DECODER, "encoder_from_decoder"),
    "decoder_from_encoder": (*_ENCODER, "decoder_from_encoder"),
}


@console_script
def main(arguments: Sequence[str]) -> int:
    """Write OUTPUT/report.md and OUTPUT/four_lines.png, and print the report."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("--runs", required=True, metavar="DIR", help="folder of the runs and of their eval/*.json")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for report.md and four_lines.png")
    options = parser.parse(arguments)
    runs, output = Path(options.runs), Path(options.output)
    models = [
        FourWayModel(kind.replace("_", " "), [_phase(runs / folder) for folder in folders], _measured(runs, kind))
        for kind, folders in _PHASE_FOLDERS.items()
    ]
    draw_four_lines(models, output / "four_lines.png")
    text = four_way_text(models, "four_lines.png")
    (output / "report.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _phase(save: Path) -> FinishedPhase:
    last = read_run_json(resolve_checkpoint(save))["lineage"][-1]
    curve = read_loss_curve(save / METRICS_FILE)
    return FinishedPhase(last["phase"], last["objective"], last["steps"], last["tokens"], curve)


def _measured(runs: Path, kind: str) -> dict[str, dict[str, float]]:
    paths = {objective: runs / "eval" / f"{kind}_{objective}.json" for objective in RELEASED_OBJECTIVES}
    for path in paths.values():
        if not path.is_file():
            raise ConfigError(f"--runs {runs}: there is no {path}")
    return {objective: json.loads(path.read_text(encoding="utf-8")) for objective, path in paths.items()}


if __name__ == "__main__":
    main()
