"""What MFU is a share of: a data sheet's figure where the device is known, else a product that was timed."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from tests.helpers.distributed import run_ranks


def peak_of(name: str) -> float:
    """Return the peak of a GPU of this name; what would be timed there is told as 1."""
    import torch

    from megatron_ettin.runtime import device
    from megatron_ettin.runtime.device import Device

    def timed(*arguments: Any) -> float:
        return 1.0

    with (
        patch.object(torch.cuda, "get_device_name", lambda index: name),
        patch.object(device, "product_rate", timed),
    ):
        return device.peak_rate(Device("cuda", 0), bf16=True)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
    ],
)
def test_known_gpus_have_their_data_sheet(name: str, teraflops: float) -> None:
    assert run_ranks(1, peak_of, name) == [teraflops * 1e12]


@pytest.mark.parametrize(
    "name", ["NVIDIA RTX A4000", "NVIDIA A10G", "NVIDIA RTX A1000 Laptop GPU", "AMD Instinct MI300X"]
)
def test_others_are_timed(name: str) -> None:
    assert run_ranks(1, peak_of, name) == [1.0]


def time_a_product() -> tuple[float, bool]:
    import torch

    from megatron_ettin.runtime.device import Device, peak_rate

    before = torch.get_rng_state()
    rate = peak_rate(Device("cpu", 0), bf16=False)
    return rate, torch.equal(torch.get_rng_state(), before)


def test_timing_draws_nothing_from_the_run() -> None:
    [(rate, untouched)] = run_ranks(1, time_a_product)
    assert 1e8 < rate < 1e14, "operations a second of one CPU core"
    assert untouched
