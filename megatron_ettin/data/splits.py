"""Which documents are for training, validation and test."""

from __future__ import annotations

from fractions import Fraction

from megatron_ettin.config.errors import ConfigError

SPLIT_NAMES = ("training", "validation", "test")


def split_documents(num_documents: int, split: str) -> tuple[range, range, range]:
    """Cut the documents into three ranges with the given proportions, as Megatron does.

    Args:
        num_documents: documents in the corpus.
        split: parts of the whole, such as ``969,30,1``; missing ones are 0.

    Raises:
        ConfigError: the parts are no numbers, negative, or all 0.
    """
    try:
        parts = [Fraction(part.strip()) for part in split.split(",")]
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--split {split}: must be up to three numbers with commas, such as 969,30,1") from None
    if len(parts) > len(SPLIT_NAMES) or min(parts) < 0 or sum(parts) == 0:
        raise ConfigError(f"--split {split}: must be up to three parts that are not negative and not all 0")
    parts += [Fraction(0)] * (len(SPLIT_NAMES) - len(parts))
    ends = [round(num_documents * float(sum(parts[: i + 1]) / sum(parts))) for i in range(len(parts))]
    return range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])
