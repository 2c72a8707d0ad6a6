"""Settings of all tests."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from tests.helpers.distributed import stop_pool
from tests.helpers.speed import patience

# How long one example takes says more about the machine's load than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts what runs in its background with SIGINT ignored, and processes hand that on: the tests that interrupt
# a tool would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Scale the default time limit to this machine; workers of pytest-xdist inherit the measured speed."""
    if config.option.timeout is None:
        config.option.timeout = patience(float(config.getini("timeout")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scale the time limits of single tests."""
    for item in items:
        if marker := item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(patience(*marker.args)), append=False)


def pytest_sessionfinish() -> None:
    stop_pool()
