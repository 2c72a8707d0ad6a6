"""Run megatron-core on plain CPUs.

megatron-core 0.16.1 computes nothing that needs a GPU, but it places tensors with ``device="cuda"`` and
``torch.cuda.current_device()``, compares ``Tensor.type()`` with CUDA names and keeps CUDA random states. This file
redirects exactly those, for the life of the process, and nothing else; parallel groups, schedules, data parallelism,
optimizer and checkpoints remain megatron-core's own, over gloo. It also imports megatron-core without torch's compiler.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from megatron_ettin.config.backend import SUPPORTED_CORE

_CUDA_TYPE_NAMES = {
    "torch.FloatTensor": "torch.cuda.FloatTensor",
    "torch.HalfTensor": "torch.cuda.HalfTensor",
    "torch.BFloat16Tensor": "torch.cuda.BFloat16Tensor",
}


def _is_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


def _placed_on_cpu(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)

    return call


_tensor_to, _tensor_type = torch.Tensor.to, torch.Tensor.type


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args and _is_cuda(args[0]):
        args = ("cpu", *args[1:])
    elif _is_cuda(kwargs.get("device")):
        kwargs["device"] = "cpu"
    return _tensor_to(tensor, *args, **kwargs)


def _type(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    result = _tensor_type(tensor, *args, **kwargs)
    return _CUDA_TYPE_NAMES.get(result, result) if isinstance(result, str) else result


def _stay(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return tensor


def _current_device() -> torch.device:
    return torch.device("cpu")


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _get_rng_state(*args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(new_state: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    torch.set_rng_state(new_state)


def _manual_seed(seed: int) -> None:
    torch.manual_seed(seed)


REDIRECTED_IN_TORCH: dict[str, Callable[..., Any]] = {
    name: _placed_on_cpu(getattr(torch, name)) for name in ("empty", "empty_like", "full", "ones", "tensor", "zeros")
}
"""What is replaced in ``torch``: the functions to which megatron-core gives ``device="cuda"``."""

REDIRECTED_IN_TENSOR: dict[str, Callable[..., Any]] = {"cuda": _stay, "to": _to, "type": _type}
"""What is replaced in ``torch.Tensor``."""

REDIRECTED_IN_TORCH_CUDA: dict[str, Callable[..., Any]] = {
    "current_device": _current_device,
    "synchronize": _do_nothing,
    "empty_cache": _do_nothing,
    "get_rng_state": _get_rng_state,
    "set_rng_state": _set_rng_state,
    "manual_seed": _manual_seed,
}
"""What is replaced in ``torch.cuda``."""

REDIRECTED_IN_CORE_RANDOM: dict[str, Callable[..., Any]] = {
    "_get_cuda_rng_state": _get_rng_state,
    "_set_cuda_rng_state": _set_rng_state,
}
"""What is replaced in ``megatron.core.tensor_parallel.random``."""


def import_core() -> None:
    """Import megatron-core without importing torch's compiler, which takes longer than all the rest.

    megatron-core decorates its fused functions with ``torch.compile``, which imports the compiler at once. Here they
    are compiled when first called: with the same result, but a CPU run calls none of them. Must come before any other
    import of megatron-core; later ones find it imported.
    """
    compile_now = torch.compile
    torch.compile = _compile_when_called  # type: ignore[assignment]
    try:
        importlib.import_module("megatron.core")
    finally:
        torch.compile = compile_now


def _compile_when_called(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = functools.cache(lambda: torch.compile(function))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call


_installed = False


def install_cpu_placement() -> None:
    """Redirect megatron-core's CUDA placements to the CPU, once per process.

    Must run before megatron-core builds anything. Its warning "CPU RNG state changed within GPU RNG context" is
    dropped, since here the two are one generator.

    Raises:
        RuntimeError: the installed megatron-core is not the version this was checked against.
    """
    global _installed
    if _installed:
        return
    installed = version("megatron-core")
    if installed != SUPPORTED_CORE:
        raise RuntimeError(
            f"megatron-core {installed} is installed; its CPU placement was checked for {SUPPORTED_CORE} only"
        )
    core_random = importlib.import_module("megatron.core.tensor_parallel.random")
    for place, replacements in (
        (torch, REDIRECTED_IN_TORCH),
        (torch.Tensor, REDIRECTED_IN_TENSOR),
        (torch.cuda, REDIRECTED_IN_TORCH_CUDA),
        (core_random, REDIRECTED_IN_CORE_RANDOM),
    ):
        for name, replacement in replacements.items():
            setattr(place, name, replacement)
    logging.getLogger(core_random.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())
    _installed = True
