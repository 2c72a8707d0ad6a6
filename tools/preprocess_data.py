"""Turn text into the .bin/.idx pair that training reads (Megatron's format)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from megatron_ettin.cli import ProgressLine, ToolParser, run_tool
from megatron_ettin.data.preprocess.settings import add_preprocess_flags, settings_of


def main(arguments: Sequence[str]) -> int:
    """Preprocess and say what was written."""
    parser = ToolParser(
        "Encode documents into PREFIX_KEY_document.bin and .idx. An interrupted run goes on by the same command."
    )
    add_preprocess_flags(parser)
    settings = settings_of(parser.parse(arguments))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here multiplies, and workers fork without threads
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    from megatron_ettin.data.preprocess.progress import ProgressText, tell_result
    from megatron_ettin.data.preprocess.run import preprocess

    line, words = ProgressLine(sys.stderr), ProgressText()
    done = preprocess(settings, lambda now: line.update(words.tell(now)), lambda text: print(text, file=sys.stderr))
    line.finish(words.tell(done.progress))
    for text in tell_result(done.progress, done.skipped_file):
        print(text, file=sys.stderr)
    print(*done.pairs, sep="\n")
    return 0


if __name__ == "__main__":
    run_tool(main)
