"""Old events read as today's: one plain function a step, from each schema version to the next.

    @accounts.upcaster("deposited", from_version=1)
    def add_currency(data: Data) -> Data:
        return {**data, "currency": "EUR"}

Stored events are never rewritten. An upcaster sees the data as JSON has it; personal fields are
sealed text, which may be renamed and moved as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from neolayer.events.errors import BadEventType, UndecodableEvent

Data = Mapping[str, Any]
Upcaster = Callable[[Data], Data]


def require_complete(name: str, steps: Mapping[int, Upcaster], schema_version: int) -> None:
    """Refuse a chain that does not lead from version 1 to the current one. Raises BadEventType."""
    wanted = set(range(1, schema_version))
    if missing := sorted(wanted - set(steps)):
        raise BadEventType(
            f"{name} is at schema version {schema_version}, and nothing leads on from {missing[0]}",
            hint=f'write @...upcaster("{name}", from_version={missing[0]})',
        )
    if beyond := sorted(set(steps) - wanted):
        raise BadEventType(
            f"{name} is at schema version {schema_version}: an upcaster from {beyond[0]} leads"
            " beyond it"
        )


def upcast(
    name: str, data: Data, steps: Mapping[int, Upcaster], *, come_from: int, to: int
) -> Data:
    """The data step by step as of version `to`. Raises UndecodableEvent where it is newer."""
    if come_from > to:
        raise UndecodableEvent(
            f"{name} was stored at schema version {come_from}, this program knows {to}",
            hint="deploy readers before writers",
        )
    for version in range(come_from, to):
        try:
            data = steps[version](data)
        except Exception as exc:  # the user's own code
            raise UndecodableEvent(
                f"the upcaster of {name} from version {version} failed: {type(exc).__name__}: {exc}"
            ) from exc
    return data
