"""Which attention kernels the installed PyTorch has."""

from __future__ import annotations

import inspect
from functools import cache


@cache
def has_windowed_varlen() -> bool:
    """Whether it has variable-length attention that takes a window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in inspect.signature(varlen_attn).parameters


@cache
def has_flex() -> bool:
    """Whether it has FlexAttention."""
    try:
        from torch.nn.attention.flex_attention import flex_attention  # noqa: F401
    except ImportError:
        return False
    return True
