"""Report on a paired encoder and decoder: losses, a check of what was released, a picture, a verdict.

Writes OUTPUT/loss.png and OUTPUT/report.json. Exits with 1 when a model has not learned or was not released as trained.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from megatron_ettin.checkpoint.layout import METRICS_FILE, TOKENIZER_FOLDER, read_run_json, resolve_checkpoint
from megatron_ettin.config.attention import MASK_OF_OBJECTIVE
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.read import CheckpointReader
from megatron_ettin.convert.reference import reference_logits
from megatron_ettin.data.evaluation import evaluation_rows
from megatron_ettin.data.indexed import IndexedTokens
from megatron_ettin.data.splits import split_documents
from megatron_ettin.data.tokenizer import TokenizerFiles
from megatron_ettin.evaluation.figures import draw_losses
from megatron_ettin.evaluation.loss_curve import read_loss_curve
from megatron_ettin.evaluation.pair_report import PairReport
from megatron_ettin.evaluation.release_report import TrainedModel, report_release
from megatron_ettin.evaluation.scoring import ScoredPiece, split_pieces
from megatron_ettin.evaluation.unigram import unigram_entropy
from megatron_ettin.objectives.objective import build_objective


Validation = tuple[list[ScoredPiece], list[NDArray[np.integer]]]
"""The pieces of a validation split as they are scored, and the tokens of the same pieces."""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--encoder", type=Path, required=True, help="--save folder of the encoder's run, with hf/ in it"
    )
    parser.add_argument("--decoder", type=Path, required=True, help="the same of the decoder")
    parser.add_argument("--output", type=Path, required=True, help="folder for loss.png and report.json")
    arguments = parser.parse_args()
    try:
        runs = [open_run(name, getattr(arguments, name)) for name in ("encoder", "decoder")]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tokens = np.concatenate(runs[0][1][1])
    models = [report_release(trained, trained.run_folder / "hf", *validation) for trained, validation in runs]
    report = PairReport(len(tokens), unigram_entropy(tokens), tuple(models))
    curves = {trained.name: trained.curve for trained, _ in runs}
    draw_losses(curves, arguments.output / "loss.png", levels={"unigram entropy": report.unigram_entropy})
    (arguments.output / "report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    print(report.text())
    return 1 if report.problems() else 0


def open_run(name: str, folder: Path) -> tuple[TrainedModel, Validation]:
    """Read what a run left: its course, its weights, and the validation split as its objective scores it."""
    checkpoint = resolve_checkpoint(folder)
    run = RunConfig.from_dict(read_run_json(checkpoint)["config"])
    tokenizer = TokenizerFiles.load(checkpoint / TOKENIZER_FOLDER)
    corpus = IndexedTokens(run.data.data_path)
    documents = split_documents(corpus.num_documents, run.data.split)[1]
    rows = evaluation_rows(corpus, documents, run.data.seq_length, sep_id=tokenizer.sep_id)
    pieces = tuple(piece for row in rows for piece in row)
    batch = build_objective(run, tokenizer).eval_batch([pieces])
    scored = split_pieces(batch.tokens_T, batch.cu_seqlens, batch.scored_K, batch.labels_K)
    reader, objective = CheckpointReader(checkpoint), run.training.objective

    def logits(texts: Sequence[Tensor]) -> list[Tensor]:
        return reference_logits(reader.tensor, run.model, MASK_OF_OBJECTIVE[objective], texts)

    trained = TrainedModel(name, objective, folder, read_loss_curve(folder / METRICS_FILE), logits)
    return trained, (scored, [piece.tokens for piece in pieces])


if __name__ == "__main__":
    sys.exit(main())
