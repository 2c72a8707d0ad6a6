"""Findings on cores, memory, /dev/shm, networks and disks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.doctor.finding import Finding, no, yes
from megatron_ettin.errors import ConfigError

_MIN_SHARED_BYTES = 1 << 30
"""NCCL moves data between ranks of a machine through /dev/shm; a container's default of 64 MiB is too little."""
_PROBE_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 22
_SLOW_DISK_BYTES_PER_SECOND = 100e6
"""A checkpoint of the 1b is 12 GB: two minutes at this rate."""


@dataclass(frozen=True)
class Link:
    """One network interface that is up."""

    name: str
    megabits_per_second: int
    """0 if unknown."""


@dataclass(frozen=True)
class Host:
    """The resources of this machine."""

    cores: int
    """Available to this process."""
    memory_bytes: int
    shared_bytes: int
    """Free in /dev/shm; 0 if there is none."""
    links: tuple[Link, ...]
    rdma: tuple[str, ...]
    """InfiniBand or RoCE devices."""


@dataclass(frozen=True)
class DiskSpeed:
    """Rates for one large file, in bytes per second."""

    write: float
    read: float
    free_bytes: int


def inspect_host() -> Host:
    """Inspect this machine."""
    cores = len(os.sched_getaffinity(0))
    quota = _number(_read("/sys/fs/cgroup/cpu.max").split(" ")[0])
    period = _number(_read("/sys/fs/cgroup/cpu.max").split(" ")[-1])
    if quota and period:
        cores = min(cores, max(1, quota // period))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number(_read("/sys/fs/cgroup/memory.max"))
    shared = Path("/dev/shm")
    return Host(
        cores=cores,
        memory_bytes=min(memory, limit or memory),
        shared_bytes=shutil.disk_usage(shared).free if shared.is_dir() else 0,
        links=tuple(_links(Path("/sys/class/net"))),
        rdma=_names(Path("/sys/class/infiniband")),
    )


def host_findings(here: Host) -> Iterator[Finding]:
    """Yield the findings on a machine's resources."""
    yield yes("CPU cores", str(here.cores))
    yield yes("memory", f"{here.memory_bytes / 2**30:.1f} GiB")
    shared = f"{here.shared_bytes / 2**30:.2f} GiB free"
    if here.shared_bytes >= _MIN_SHARED_BYTES:
        yield yes("/dev/shm", shared)
    else:
        yield no("/dev/shm", f"{shared}; NCCL needs 1 GiB", "docker run --ipc host (or --shm-size 8g)")
    if here.links:
        yield yes("network", ", ".join(map(_speed, here.links)))
    else:
        yield no("network", "no interface is up except the loopback; a single machine needs none", "ip link")
    if here.rdma:
        yield yes("RDMA", ", ".join(here.rdma))
    else:
        fix = "ibstat; in a container: docker run --device /dev/infiniband --ulimit memlock=-1"
        yield no("RDMA", "no InfiniBand or RoCE device; several machines would use TCP", fix)


def measure_disk(folder: Path, size_bytes: int = _PROBE_BYTES) -> DiskSpeed:
    """Write a file of ``size_bytes`` to the disk of a folder, read it and delete it.

    Raises:
        ConfigError: there is no such folder, it is not writable, or it has too little space.
    """
    if not folder.is_dir():
        raise ConfigError(f"--path {folder}: must be an existing folder")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--path {folder}: must be writable")
    free = shutil.disk_usage(folder).free
    if free < 2 * size_bytes:
        raise ConfigError(f"--path {folder}: must have {2 * size_bytes / 2**20:.0f} MiB free to be measured")
    block = os.urandom(_BLOCK_BYTES)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor_") as file:
        started = time.perf_counter()
        for _ in range(size_bytes // _BLOCK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        # Otherwise the file would be read from the page cache.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        reading = time.perf_counter()
        while file.read(_BLOCK_BYTES):
            pass
        done = time.perf_counter()
    return DiskSpeed(size_bytes / (written - started), size_bytes / (done - reading), free)


def disk_finding(folder: Path, speed: DiskSpeed) -> Finding:
    """Return the finding on a folder's disk."""
    name = f"disk of {folder}"
    rates = f"writes {speed.write / 1e6:.0f} MB/s, reads {speed.read / 1e6:.0f} MB/s"
    rates += f", {speed.free_bytes / 2**30:.1f} GiB free"
    if min(speed.write, speed.read) >= _SLOW_DISK_BYTES_PER_SECOND:
        return yes(name, rates)
    return no(name, f"{rates}: runs will wait for checkpoints and data", "put --save and --data-path on a local disk")


def _links(folder: Path) -> Iterator[Link]:
    for name in _names(folder):
        state, speed = (_read(str(folder / name / fact)) for fact in ("operstate", "speed"))
        if name != "lo" and state in ("up", "unknown"):
            yield Link(name, max(_number(speed), 0))


def _speed(link: Link) -> str:
    return f"{link.name} ({link.megabits_per_second / 1000:g} Gbit/s)" if link.megabits_per_second else link.name


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:  # a virtual interface has no speed
        return ""


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdecimal() else 0
