"""The keys' one class of data: those that a service locks."""

from __future__ import annotations

from neolayer.catalogue import DataClass

CLASSES: tuple[DataClass, ...] = (DataClass("locked_keys", "neolayer", "core.locked_keys"),)
