"""Fusion of elementwise operations into one kernel on GPUs.

Between its matrix products a layer is limited by memory bandwidth, and PyTorch's eager operations each read and write
all of it. ``torch.compile`` makes one kernel of several. On a CPU the same functions run eagerly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def fused(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return ``function`` compiled for calls whose first argument is a CUDA tensor.

    The first such call compiles: importing torch's compiler takes seconds, and no CPU run needs it. As micro-batches
    differ in their number of tokens, the second call recompiles with it as a variable of the kernel.
    """

    @cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(function, fullgraph=True)

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        first = args[0]
        if isinstance(first, Tensor) and first.is_cuda and not torch.compiler.is_compiling():
            result: Result = compiled()(*args, **kwargs)
            return result
        return function(*args, **kwargs)

    return run
