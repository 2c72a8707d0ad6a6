"""Turn text into the .bin/.idx pair that training reads (Megatron's format)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from megatron_ettin.cli import ProgressLine, ToolParser, console_script
from megatron_ettin.data.preprocess.settings import add_preprocess_flags, settings_of


@console_script
def main(arguments: Sequence[str]) -> int:
    """Preprocess, and print the prefixes of the pairs written."""
    parser = ToolParser(
        "Encode documents into PREFIX_KEY_document.bin and .idx. The same command resumes an interrupted run."
    )
    add_preprocess_flags(parser)
    settings = settings_of(parser.parse(arguments))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no linear algebra here, and workers must fork without threads
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    from megatron_ettin.data.preprocess.progress import ProgressText, result_lines
    from megatron_ettin.data.preprocess.run import preprocess

    console, text = ProgressLine(sys.stderr), ProgressText()
    result = preprocess(
        settings, lambda now: console.update(text.line(now)), lambda notice: print(notice, file=sys.stderr)
    )
    console.finish(text.line(result.progress))
    for line in result_lines(result.progress, result.skipped_file):
        print(line, file=sys.stderr)
    print(*result.pairs, sep="\n")
    return 0


if __name__ == "__main__":
    main()
