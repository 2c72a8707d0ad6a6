"""Export a checkpoint as a Hugging Face model for plain transformers, and compare its logits."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script, positive
from megatron_ettin.convert.options import add_model_flags

EXIT_CHECK_FAILED = 3


def build_parser() -> ToolParser:
    """Return the command line."""
    parser = ToolParser(
        "Write a checkpoint as ModernBertForMaskedLM (encoder) or ModernBertDecoderForCausalLM (decoder), with its "
        "tokenizer. The result is reloaded and its logits compared: exit code 3, and nothing kept, if they differ."
    )
    parser.add_argument(
        "--load", required=True, metavar="DIR", help="a run's --save folder or one of its step_* folders"
    )
    parser.add_argument("--step", type=positive, metavar="N", help="this step of --load instead of the latest")
    parser.add_argument("--save", required=True, type=Path, metavar="DIR", help="the model folder to write")
    add_model_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model folder")
    parser.add_argument("--no-check", action="store_true", help="do not reload and compare")
    return parser


@console_script
def main(arguments: Sequence[str]) -> int:
    """Export a checkpoint and report what was written."""
    options = build_parser().parse(arguments)
    from megatron_ettin.convert.export import CheckFailed, export_checkpoint
    from megatron_ettin.convert.options import ExportOptions

    start = time.monotonic()
    export_options = ExportOptions(options.dtype or "", options.relabel, options.base_only, options.license)
    try:
        result = export_checkpoint(
            options.load,
            options.save,
            step=options.step or 0,
            options=export_options,
            overwrite=options.overwrite,
            check=not options.no_check,
        )
    except CheckFailed as failure:
        sys.stderr.write(f"error: --save {options.save}: {failure}\n")
        return EXIT_CHECK_FAILED
    size = f"{result.num_parameters:,} parameters, {result.num_bytes / 1e6:,.1f} MB"
    print(f"{result.checkpoint} -> {options.save}: {size}, {time.monotonic() - start:.1f} s")
    if result.dropout:
        print(f"the tokenizer's BPE dropout of {result.dropout:g} is not part of the release")
    if result.check is not None:
        difference, allowed = f"{result.check.difference:.3g}", f"{result.check.allowed:.3g}"
        print(f"largest difference of the {result.check.compared}: {difference} (allowed {allowed})")
    return 0


if __name__ == "__main__":
    main()
