"""Measure a paired encoder and decoder: losses, a check of their releases, a figure and a report.

The exit code is 1 if a model has not learned or its release computes something else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script


@console_script
def main(arguments: Sequence[str]) -> int:
    """Write OUTPUT/loss.png and OUTPUT/report.json, and print the report."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument(
        "--encoder", required=True, metavar="DIR", help="--save folder of the run, with its release in hf/"
    )
    parser.add_argument("--decoder", required=True, metavar="DIR", help="the same for the decoder")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for loss.png and report.json")
    options = parser.parse(arguments)
    import numpy as np

    from megatron_ettin.checkpoint.folder.metrics_file import read_loss_curve
    from megatron_ettin.evaluation.run_reports.figures import draw_losses
    from megatron_ettin.evaluation.run_reports.pair_report import PairReport
    from megatron_ettin.evaluation.run_reports.release_report import TrainedModel, report_release
    from megatron_ettin.evaluation.run_reports.scoring import split_chunks, unigram_entropy
    from megatron_ettin.train.finished_run import FinishedRun

    models, curves, contents = [], {}, []
    for name, folder in (("encoder", options.encoder), ("decoder", options.decoder)):
        run = FinishedRun.open(Path(folder))
        chunks, batch = run.validation_split()
        contents = [chunk.tokens for chunk in chunks]
        scored = split_chunks(batch.tokens_T, batch.cu_seqlens, batch.scored_K, batch.labels_K)
        curves[name] = read_loss_curve(run.metrics)
        trained = TrainedModel(name, run.objective, run.folder, curves[name], run.logits)
        models.append(report_release(trained, run.folder / "hf", scored, contents))
    tokens = np.concatenate(contents)
    report = PairReport(len(tokens), unigram_entropy(tokens), tuple(models))

    output = Path(options.output)
    draw_losses(curves, output / "loss.png", levels={"unigram entropy": report.unigram_entropy})
    (output / "report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    print(report.text())
    return 1 if report.problems() else 0


if __name__ == "__main__":
    main()
