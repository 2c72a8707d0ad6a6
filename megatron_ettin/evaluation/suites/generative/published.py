"""The ten tasks of the paper's table of decoders, by the harness's names, zero-shot."""

from __future__ import annotations

from collections.abc import Mapping

PUBLISHED_TASKS: Mapping[str, str] = {
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
    "lambada_openai": "acc",
    "openbookqa": "acc_norm",
    "piqa": "acc_norm",
    "sciq": "acc",
    "social_iqa": "acc",
    "triviaqa": "exact_match",
    "winogrande": "acc",
    "wsc273": "acc",
}
"""Task -> the metric that its column most likely shows (docs/evaluation.md says why)."""

OTHER_MAIN_METRICS = ("acc_norm", "acc", "exact_match")
"""Which metric stands for any other task: the first of these that it has, else its own first."""
