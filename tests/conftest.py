"""Settings of all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# How long one example takes says more about the machine's load than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts what runs in its background with SIGINT ignored, and processes hand that on: the tests that interrupt
# a tool would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
