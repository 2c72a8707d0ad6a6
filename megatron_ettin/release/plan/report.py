"""The dry run: what a release would hold and where it would go, worked out without torch."""

from __future__ import annotations

from megatron_ettin.checkpoint.folder.layout import read_run_json
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.options import released_as
from megatron_ettin.convert.training_facts import short_count
from megatron_ettin.planning.model_size import count_parameters
from megatron_ettin.release.plan.request import ReleaseRequest
from megatron_ettin.release.plan.revisions import Revision

_BYTES = {"": 4, "float32": 4, "bfloat16": 2, "float16": 2}
"""Checkpoints hold fp32."""


def plan_lines(request: ReleaseRequest) -> list[str]:
    """Return the plan as lines of a table."""
    head = f"{'revision':<14}{'phase':<10}{'step':>10}{'tokens':>10}{'MB':>12}  state"
    lines = [head, *(_row(request, revision) for revision in request.revisions)]
    lines.append(f"main = {request.revisions[-1].name}, with CHECKPOINTS.csv, configs and model card")
    lines += ["raw: the distributed checkpoint of each"] if request.raw else []
    lines += [f"training order: {path}" for path in request.training_orders.values()]
    lines += [f"to the Hub: {target}" for target in request.targets]
    return lines


def _row(request: ReleaseRequest, revision: Revision) -> str:
    run = read_run_json(revision.checkpoint)
    counted = count_parameters(RunConfig.from_dict(run["config"]).model)
    _, base_only = released_as(run["objective"], request.options)
    without = counted.head + counted.output_bias + counted.output_matrix if base_only else 0
    megabytes = (counted.total - without) * _BYTES[request.options.dtype] / 1e6
    state = "finished before, to be verified" if request.folder.manifest(revision.name).is_file() else "to convert"
    tokens = short_count(revision.tokens)
    return f"{revision.name:<14}{revision.phase:<10}{revision.step:>10}{tokens:>10}{megabytes:>12,.1f}  {state}"
