"""How a start looks: a live table on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.status import Status
from rich.table import Table

from neolayer.cli.output import say, words
from neolayer.engines.embedded.data_directory import LayerState
from neolayer.engines.embedded.supervisor import Progress

_MARKS = {"healthy": "[green]●[/]", "done": "[green]●[/]", "restarting": "[red]●[/]"}


class Counting:
    """A count that grows, on a terminal only, and only where it takes longer than a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = time.monotonic()
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, count: int) -> None:
        """So many by now."""
        seconds = time.monotonic() - self._started
        if seconds < 1 or not sys.stderr.isatty():
            return
        text = f"{count:,} {self._what}, {count / seconds:,.0f} a second"
        if self._status is None:
            self._status = Status(text, console=words())
            self._status.start()
        self._status.update(text)


class StartDisplay:
    """Shows each part's state until everything is healthy, then only what goes wrong."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._started = time.monotonic()
        self._live: Live | None = None
        self._draws = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_live()

    def _draw(self) -> None:
        """Drawing takes a thread, so it begins with the first news: after a fork, not before."""
        if self._live is None:
            self._live = Live(console=words(), refresh_per_second=12, transient=True)
            self._live.start()
        self._live.update(self._table())

    def _end_live(self) -> None:
        self._draws = False
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, progress: Progress) -> None:
        """One part changed."""
        if self._states.get(progress.name) == progress.state:
            return
        self._states[progress.name] = progress.state
        if self._draws:
            self._draw()
        elif progress.detail and progress.state == "restarting":
            say(f"{progress.name}: {progress.state} ({progress.detail})")
        else:
            say(f"{progress.name}: {progress.state}")

    def show_state(self, state: LayerState) -> None:
        """What a supervisor in the background has written."""
        for service in state.services:
            self.show(Progress(service.name, service.state, service.last_exit))

    def healthy(self, ports: dict[str, int], *, seconds: float | None = None) -> None:
        """Everything is up: say where."""
        took = time.monotonic() - self._started if seconds is None else seconds
        self._end_live()
        addresses = ", ".join(f"{name} 127.0.0.1:{port}" for name, port in ports.items())
        say(f"The layer is healthy after {took:.1f} s: {addresses}")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name, state in self._states.items():
            table.add_row(_MARKS.get(state, "[yellow]○[/]"), name, f"[dim]{state}[/]")
        return table
