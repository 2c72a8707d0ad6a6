"""Chains of small operations, each one kernel where there is a GPU.

Between its matrix products a layer only moves memory, and PyTorch's eager operations move it once per operation.
``torch.compile`` makes one kernel of each chain. On a CPU the same functions run as they are written.
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

    Compiling waits for the first such call: importing torch's compiler takes seconds, and no CPU run needs it. The
    number of tokens differs between micro-batches, so from the second one on it is a variable of the kernel.
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
