"""What computes on this machine: PyTorch, GPUs, Transformer Engine, kernels, FP8."""

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
_ENGINE_WAY = f"pip install --no-build-isolation --editable '.[te]', or {_IMAGE}"
_GET_GPU = "run where nvidia-smi lists one; what stands at NVIDIA driver and CUDA mends this"


@dataclass(frozen=True)
class Gpu:
    """One device as CUDA tells it."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Compute:
    """Everything that is looked up once."""

    torch: str
    """Versions are empty where a package is not there."""
    cuda: str
    """That the installed PyTorch was built for."""
    gpus: tuple[Gpu, ...]
    driver: str
    nccl: str
    core: str
    engine: str
    engine_obstacle: str
    """Why Transformer Engine cannot be used, where it is installed."""
    apex: bool
    flash_attn: str
    has_windowed_varlen: bool
    has_flex: bool
    can_compile: bool
    """Whether Triton and a C compiler are there, which torch.compile needs on a GPU."""


def look_at_compute() -> Compute:
    """Look this process's installation up."""
    versions = {name: _version(name) for name in ("torch", "megatron-core", "transformer-engine", "flash-attn")}
    told: dict[str, Any] = {"cuda": "", "gpus": (), "nccl": "", "obstacle": "", "varlen": False, "flex": False}
    if versions["torch"]:
        told |= _look_at_torch(installed=bool(versions["transformer-engine"]))
    return Compute(
        torch=versions["torch"],
        cuda=told["cuda"],
        gpus=told["gpus"],
        driver=_driver_version(),
        nccl=told["nccl"],
        core=versions["megatron-core"],
        engine=versions["transformer-engine"],
        engine_obstacle=told["obstacle"],
        apex=importlib.util.find_spec("apex") is not None,
        flash_attn=versions["flash-attn"],
        has_windowed_varlen=told["varlen"],
        has_flex=told["flex"],
        can_compile=importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang"))),
    )


def compute_findings(here: Compute) -> Iterator[Finding]:
    """Yield what was found of everything that computes."""
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


def _look_at_torch(*, installed: bool) -> dict[str, Any]:
    import torch
    import torch.distributed

    from megatron_ettin.runtime.backend import engine_obstacle, has_flex, has_windowed_varlen
    from megatron_ettin.runtime.device import choose_device

    numbers = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    properties = [torch.cuda.get_device_properties(number) for number in numbers]
    gpus = tuple(Gpu(found.name, found.total_memory, (found.major, found.minor)) for found in properties)
    nccl = ""
    if torch.distributed.is_nccl_available():
        from torch.cuda import nccl as library

        nccl = ".".join(map(str, library.version()[:3]))
    obstacle = engine_obstacle(choose_device("auto")) if installed else ""
    return {
        "cuda": torch.version.cuda or "",
        "gpus": gpus,
        "nccl": nccl,
        "obstacle": obstacle,
        "varlen": has_windowed_varlen(),
        "flex": has_flex(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _driver_version() -> str:
    """Return NVIDIA's driver version as the kernel module tells it; empty without one."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return found[1] if found else "unknown"


def _driver(here: Compute) -> Finding:
    if here.driver:
        return yes("NVIDIA driver", here.driver)
    way = "install NVIDIA's driver until nvidia-smi answers; in a container: docker run --gpus all"
    return no("NVIDIA driver", "is not loaded, so there is no GPU to use", way)


def _cuda(here: Compute) -> Finding:
    if not here.cuda:
        return no("CUDA", "the installed torch was built without it", "pip install --force-reinstall torch")
    if not here.gpus:
        seen = "a driver but no device" if here.driver else "no driver"
        return no("CUDA", f"torch is built for {here.cuda} and finds {seen}", "nvidia-smi; echo $CUDA_VISIBLE_DEVICES")
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
        return no(name, "is not installed; layers come from PyTorch", _ENGINE_WAY)
    if here.engine_obstacle:
        return no(name, f"{here.engine} is installed, but {here.engine_obstacle}", _ENGINE_WAY)
    return yes(name, here.engine)


def _apex(here: Compute) -> Finding:
    if here.apex:
        return yes("apex", "installed; nothing here needs it")
    return no("apex", "is not installed; nothing here needs it", f"{_IMAGE}, whose base has it")


def _attention(here: Compute) -> Iterator[Finding]:
    upgrade = "pip install --upgrade torch"
    if not here.gpus:
        for name in ("varlen attention", "FlexAttention"):
            yield no(name, "needs a GPU; CPUs have kernels of their own", _GET_GPU)
    else:
        lacking = no("varlen attention", "this torch has none that takes a window", upgrade)
        yield yes("varlen attention", "of torch, with a window") if here.has_windowed_varlen else lacking
        yield yes("FlexAttention", "of torch") if here.has_flex else no("FlexAttention", "not in this torch", upgrade)
    if here.flash_attn:
        yield yes("flash-attn", here.flash_attn)
    else:
        reason = "is not installed; an encoder's local layers take torch's kernel under Transformer Engine too"
        yield no("flash-attn", reason, f"pip install --no-build-isolation flash-attn, or {_IMAGE}")


def _compiler(here: Compute) -> Finding:
    if here.can_compile:
        return yes("torch.compile", "Triton and a C compiler are there")
    return no("torch.compile", "needs Triton and a C compiler on a GPU", "pip install triton; apt-get install gcc")


def _fp8(here: Compute, recipe: str) -> Finding:
    name = f"FP8 {recipe}"
    if not here.gpus:
        return no(name, "needs a GPU", _GET_GPU)
    lacking = missing_hardware(recipe, min(gpu.capability for gpu in here.gpus))
    if lacking:
        return no(name, lacking, "choose another --fp8-recipe, or leave --fp8-format out")
    if not here.engine or here.engine_obstacle:
        return no(name, "needs Transformer Engine", _ENGINE_WAY)
    return yes(name, "")


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
