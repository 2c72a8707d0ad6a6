"""Findings on PyTorch, GPUs, Transformer Engine, kernels and FP8."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_ettin.config.backend import FP8_ROW_MULTIPLE, SUPPORTED_CORE, missing_hardware
from megatron_ettin.doctor.finding import Finding, no, yes

_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = "make install"
_IMAGE = "docker build -t megatron_ettin ."
_ENGINE_FIX = f"pip install --no-build-isolation --editable '.[te]', or {_IMAGE}"
_GET_GPU = "run on a machine where nvidia-smi lists one; see NVIDIA driver and CUDA"


@dataclass(frozen=True)
class Gpu:
    """One device as CUDA reports it."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Compute:
    """The installation of a process. Versions are empty for packages that are not installed."""

    torch: str
    cuda: str
    """The version that the installed PyTorch was built for."""
    gpus: tuple[Gpu, ...]
    driver: str
    nccl: str
    core: str
    engine: str
    engine_obstacle: str
    """Why an installed Transformer Engine cannot be used."""
    apex: bool
    flash_attn: str
    has_windowed_varlen: bool
    has_flex: bool
    can_compile: bool
    """Whether there are Triton and a C compiler, which torch.compile needs on a GPU."""


def inspect_compute() -> Compute:
    """Inspect the installation of this process."""
    versions = {name: _version(name) for name in ("torch", "megatron-core", "transformer-engine", "flash-attn")}
    facts: dict[str, Any] = {"cuda": "", "gpus": (), "nccl": "", "engine_obstacle": ""}
    facts |= {"has_windowed_varlen": False, "has_flex": False}
    if versions["torch"]:
        facts = _inspect_torch(has_engine=bool(versions["transformer-engine"]))
    return Compute(
        torch=versions["torch"],
        driver=_driver_version(),
        core=versions["megatron-core"],
        engine=versions["transformer-engine"],
        apex=importlib.util.find_spec("apex") is not None,
        flash_attn=versions["flash-attn"],
        can_compile=importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang"))),
        **facts,
    )


def compute_findings(here: Compute) -> Iterator[Finding]:
    """Yield the findings on a process's installation."""
    yield yes("torch", here.torch) if here.torch else no("torch", "is not installed", _INSTALL)
    if here.core == SUPPORTED_CORE:
        yield yes("megatron-core", here.core)
    else:
        yield no("megatron-core", f"must be {SUPPORTED_CORE}; found {here.core or 'none'}", _INSTALL)
    yield _driver(here)
    yield _cuda(here)
    yield _nccl(here)
    yield _engine(here)
    yield _apex(here)
    yield from _attention(here)
    yield _compiler(here)
    for recipe in FP8_ROW_MULTIPLE:
        yield _fp8(here, recipe)


def _inspect_torch(*, has_engine: bool) -> dict[str, Any]:
    import torch
    import torch.distributed

    from megatron_ettin.runtime.backend import engine_obstacle, has_flex, has_windowed_varlen
    from megatron_ettin.runtime.device import choose_device

    numbers = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    properties = [torch.cuda.get_device_properties(number) for number in numbers]
    nccl = ""
    if torch.distributed.is_nccl_available():
        from torch.cuda import nccl as library

        nccl = ".".join(map(str, library.version()[:3]))
    return {
        "cuda": torch.version.cuda or "",
        "gpus": tuple(Gpu(gpu.name, gpu.total_memory, (gpu.major, gpu.minor)) for gpu in properties),
        "nccl": nccl,
        "engine_obstacle": engine_obstacle(choose_device("auto")) if has_engine else "",
        "has_windowed_varlen": has_windowed_varlen(),
        "has_flex": has_flex(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _driver_version() -> str:
    """Return the version of NVIDIA's driver by its kernel module, "" without one."""
    try:
        match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return match[1] if match else "unknown"


def _driver(here: Compute) -> Finding:
    if here.driver:
        return yes("NVIDIA driver", here.driver)
    fix = "install NVIDIA's driver, then check nvidia-smi; in a container: docker run --gpus all"
    return no("NVIDIA driver", "is not loaded, so no GPU can be used", fix)


def _cuda(here: Compute) -> Finding:
    if not here.cuda:
        return no("CUDA", "the installed torch was built without it", "pip install --force-reinstall torch")
    if not here.gpus:
        state = "a driver but no device" if here.driver else "no driver"
        return no("CUDA", f"torch is built for {here.cuda} and finds {state}", "nvidia-smi; echo $CUDA_VISIBLE_DEVICES")
    kinds = {gpu: here.gpus.count(gpu) for gpu in here.gpus}
    listed = (
        f"{count} x {gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB, compute capability {_dotted(gpu.capability)})"
        for gpu, count in kinds.items()
    )
    return yes("CUDA", f"{here.cuda}, {', '.join(listed)}")


def _nccl(here: Compute) -> Finding:
    if here.nccl:
        return yes("NCCL", here.nccl)
    return no("NCCL", "the installed torch has none; CPUs use gloo", "pip install --force-reinstall torch")


def _engine(here: Compute) -> Finding:
    name = "Transformer Engine"
    if not here.engine:
        return no(name, "is not installed; PyTorch provides the layers", _ENGINE_FIX)
    if here.engine_obstacle:
        return no(name, f"{here.engine} is installed, but {here.engine_obstacle}", _ENGINE_FIX)
    return yes(name, here.engine)


def _apex(here: Compute) -> Finding:
    if here.apex:
        return yes("apex", "installed; not required")
    return no("apex", "is not installed; not required", f"{_IMAGE}, whose base image has it")


def _attention(here: Compute) -> Iterator[Finding]:
    upgrade = "pip install --upgrade torch"
    if not here.gpus:
        for name in ("varlen attention", "FlexAttention"):
            yield no(name, "needs a GPU; on CPUs other kernels are used", _GET_GPU)
    else:
        missing = no("varlen attention", "this torch has none with a window", upgrade)
        yield yes("varlen attention", "of torch, with a window") if here.has_windowed_varlen else missing
        yield yes("FlexAttention", "of torch") if here.has_flex else no("FlexAttention", "not in this torch", upgrade)
    if here.flash_attn:
        yield yes("flash-attn", here.flash_attn)
    else:
        reason = "is not installed; under Transformer Engine, an encoder's local layers use torch's kernel"
        yield no("flash-attn", reason, f"pip install --no-build-isolation flash-attn, or {_IMAGE}")


def _compiler(here: Compute) -> Finding:
    if here.can_compile:
        return yes("torch.compile", "with Triton and a C compiler")
    return no("torch.compile", "needs Triton and a C compiler on a GPU", "pip install triton; apt-get install gcc")


def _fp8(here: Compute, recipe: str) -> Finding:
    name = f"FP8 {recipe}"
    if not here.gpus:
        return no(name, "needs a GPU", _GET_GPU)
    missing = missing_hardware(recipe, min(gpu.capability for gpu in here.gpus))
    if missing:
        return no(name, missing, "choose another --fp8-recipe, or omit --fp8-format")
    if not here.engine or here.engine_obstacle:
        return no(name, "needs Transformer Engine", _ENGINE_FIX)
    return yes(name, "")


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
