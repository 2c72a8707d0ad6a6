"""Which documents are for training, validation and test."""

from __future__ import annotations

from itertools import accumulate

from megatron_ettin.config.errors import ConfigError

SPLIT_NAMES = ("training", "validation", "test")


def split_documents(num_documents: int, split: str) -> tuple[range, range, range]:
    """Cut the documents into three ranges with the given proportions, in megatron-core's arithmetic.

    Args:
        num_documents: documents in the corpus.
        split: parts of the whole, such as ``969,30,1``; missing ones are 0.

    Raises:
        ConfigError: the parts are no numbers, negative, or all 0.
    """
    try:
        parts = [float(part) for part in split.split(",")]
    except ValueError:
        raise ConfigError(f"--split {split}: must be up to three numbers with commas, such as 969,30,1") from None
    total = sum(parts)
    if len(parts) > len(SPLIT_NAMES) or not min(parts) >= 0 or not 0 < total < float("inf"):
        raise ConfigError(f"--split {split}: must be up to three parts that are not negative and not all 0")
    shares = [part / total for part in parts] + [0.0] * (len(SPLIT_NAMES) - len(parts))
    # Summed and rounded in this order: a document at a border is on the side where megatron-core has it.
    ends = [round(end * num_documents) for end in accumulate(shares)]
    return range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])
