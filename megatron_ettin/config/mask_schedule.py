"""The share of tokens that MLM training scores, by the tokens trained before."""

from __future__ import annotations

from bisect import bisect_right

from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.token_counts import parse_token_count
from megatron_ettin.errors import ConfigError

_RULE = "must be a share above 0 and at most 1, or TOKENS:SHARE,... from 0 tokens on, ascending, as 0:0.3,250B:0.15"


def parse_mask_schedule(written: str) -> tuple[tuple[int, float], ...]:
    """Return from how many tokens on which share holds.

    Raises:
        ConfigError: it is no such list.
    """
    try:
        pairs = [part.split(":") for part in (written if ":" in written else f"0:{written}").split(",")]
        found = tuple((parse_token_count(tokens), float(share)) for tokens, share in pairs)
    except ValueError:
        raise ConfigError(f"--mlm-probability-schedule {written}: {_RULE}") from None
    begins = [begin for begin, _ in found if begin is not None]
    ascends = len(begins) == len(found) and begins[0] == 0 and begins == sorted(set(begins))
    if not ascends or not all(0 < share <= 1 for _, share in found):
        raise ConfigError(f"--mlm-probability-schedule {written}: {_RULE}")
    return tuple(zip(begins, (share for _, share in found), strict=True))


def mask_ratio(data: DataConfig, tokens: int) -> float:
    """Return the share of a step before which so many tokens were trained."""
    if not data.mlm_probability_schedule:
        return data.mlm_probability
    schedule = parse_mask_schedule(data.mlm_probability_schedule)
    return schedule[bisect_right([begin for begin, _ in schedule], tokens) - 1][1]


def largest_mask_ratio(data: DataConfig) -> float:
    """Return the largest share of a run: what memory must hold."""
    if not data.mlm_probability_schedule:
        return data.mlm_probability
    return max(share for _, share in parse_mask_schedule(data.mlm_probability_schedule))
