"""Finds, on a CPU, what would make the host wait for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}
"""What copies a tensor to the host; single values are read by the operator below."""
SIZES_FROM_VALUES = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
"""Operators whose result, or the size of it, the host must know."""


class HostReads:
    """Lists, inside its ``with``, every read of a tensor's values by Python and every copy that blocks."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> HostReads:
        self._stack.enter_context(_Functions(self.found))
        self._stack.enter_context(_Operators(self.found))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


class _Functions(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in READS:
            self._found.append(func.__name__)
        if func is torch.tensor and _holds_tensors(args[0]):
            self._found.append("tensor of tensors")  # reads each of them
        elif func is torch.tensor and (kwargs or {}).get("device") is not None:
            self._found.append("tensor onto a device")  # waits until it has arrived, after all other work
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        picks = name == "aten::index" or (name == "aten::index_put_" and args[2].numel() > 1)  # one value is a fill
        if name in SIZES_FROM_VALUES or (picks and _has_mask(args[1])):
            self._found.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _holds_tensors(data: Any) -> bool:
    if isinstance(data, (list, tuple)):
        return any(_holds_tensors(part) for part in data)
    return isinstance(data, torch.Tensor)
