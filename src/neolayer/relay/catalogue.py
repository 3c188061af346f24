"""The relay's own classes of data: what people ask of it, and what sinks refused."""

from __future__ import annotations

from neolayer.catalogue import DataClass

_DATABASE = "neolayer"

CLASSES: tuple[DataClass, ...] = (
    DataClass("relay_sinks", _DATABASE, "core.relay_sinks", known_by=("sink",)),
    DataClass("relay_dead_letters", _DATABASE, "core.relay_dead_letters", known_by=("sink",)),
    DataClass("relay_rebuilds", _DATABASE, "core.relay_rebuilds", known_by=("sink",)),
    DataClass("relay_rebuild_ranges", _DATABASE, "core.relay_rebuild_ranges", known_by=("sink",)),
)
