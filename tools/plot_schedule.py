"""Draw the learning rate of a preset or config over the phases of its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script, png_path
from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.objectives import OBJECTIVES, released_objective
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import schedule_end, schedule_unit
from megatron_ettin.config.training import PHASES
from megatron_ettin.config.value_types import format_token_count
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.run_reports.figures import PhaseCurve, draw_phases
from megatron_ettin.optim.schedules import learning_rate_path, phase_schedule
from megatron_ettin.train.preflight.prepare import prepare_run

_NUM_POINTS = 400


@console_script
def main(arguments: Sequence[str]) -> int:
    """Draw one panel for each phase."""
    options = _parser().parse(arguments)
    source = ["--config", options.config] if options.config else ["--preset", options.preset]
    objective = options.objective or parse_command(source).config.training.objective or released_objective("encoder")
    curves = []
    for phase in options.phases:
        command = parse_command([*source, "--objective", objective, "--phase", phase, "--dry-run"])
        curves.append(_curve(" ".join(source), prepare_run(command, world_size=1).config))
    draw_phases(f"{options.config or options.preset}, {objective}", curves, Path(options.output))
    print(f"wrote {options.output}")
    return 0


def _parser() -> ToolParser:
    parser = ToolParser(__doc__ or "")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", default="", help="name of a preset")
    source.add_argument("--config", default="", help="YAML file")
    parser.add_argument("--objective", default="", help="mlm, clm or mntp; by default that of the file, else mlm")
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=PHASES, help="phases, in order")
    parser.add_argument("--output", required=True, type=png_path, metavar="FILE.png", help="the PNG to write")
    return parser


def _curve(source: str, config: RunConfig) -> PhaseCurve:
    optimizer, training = config.optimizer, config.training
    end, schedule = schedule_end(optimizer, training), phase_schedule(optimizer, training)
    if end == 0:
        raise ConfigError(f"{source}: sets no duration, so there is nothing to draw")
    corners = {time for time, _ in learning_rate_path(optimizer, training)}
    times = sorted(corners | {end * point / _NUM_POINTS for point in range(_NUM_POINTS + 1)})
    unit = {"tokens": "tokens", "iters": "steps"}[schedule_unit(optimizer, training)]
    length = format_token_count(end) if unit == "tokens" else f"{end:,}"
    masked = f"\n{config.data.mlm_probability:.0%} masked" if OBJECTIVES[training.objective].hides_tokens else ""
    title = f"{training.phase}: {length} {unit}\nrows of {config.data.seq_length:,}{masked}"
    return PhaseCurve(title, unit, times, [schedule(time) for time in times])


if __name__ == "__main__":
    main()
