"""A word on stderr about what is tried again, so that a wait is not a riddle."""

from __future__ import annotations

import sys

from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from neolayer.telemetry import mask


def say_retries() -> None:
    """From now on; the library's own words would go to stdout, which is for data."""
    set_on_retry_hooks([_say])


def _say(details: RetryDetails) -> None:
    print(mask(f"again in {details.wait_for:.1f} s: {details.caused_by}"), file=sys.stderr)
