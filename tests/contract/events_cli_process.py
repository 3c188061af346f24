"""`neolayer events ...` in a process of its own, over a test's databases, to be sent signals:
`python events_cli_process.py DSNS_JSON ARGUMENT...`."""

from __future__ import annotations

import sys

from tests.crash.events_consumer import endpoints_of

from neolayer.cli import event_options, main

if __name__ == "__main__":
    at = endpoints_of(sys.argv[1])
    event_options.endpoints = lambda _: at
    main(("events", *sys.argv[2:]))
