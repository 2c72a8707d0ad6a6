"""How an encoder's likelihoods are computed, by name."""

from __future__ import annotations

from typing import Literal, get_args

EncoderProtocol = Literal["left-to-right", "pll"]
"""``left-to-right``: each token with what stands before it; ``pll``: each token with the whole rest of the text."""

ENCODER_PROTOCOLS: tuple[EncoderProtocol, ...] = get_args(EncoderProtocol)
