"""A program's own events and projections, found in the modules that `events.modules` names.

    [events]
    modules = ["myapp.domain"]

A module lists nothing: every `EventTypes` and every `Projection` that it holds under a name is part
of the domain. The worker and the command line import the same modules as the program does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from neolayer.errors import SettingsError
from neolayer.events.errors import BadProjection, UnknownProjection
from neolayer.events.projections.model import AnyProjection, Mode, Projection
from neolayer.events.projections.shape import shape_of
from neolayer.events.registry import EventTypes, Registry

_SAID = "events.modules names"


@dataclass(frozen=True, slots=True)
class Domain:
    """What a program declares. `projections` are in the order of the modules."""

    registry: Registry
    projections: tuple[AnyProjection, ...] = ()

    @classmethod
    def of(
        cls, types: Iterable[EventTypes] = (), projections: Iterable[AnyProjection] = ()
    ) -> Domain:
        """Checked as a whole. Raises BadEventType, UnknownEventType, BadProjection."""
        registry, chosen = Registry(types), tuple(projections)
        names = [one.name for one in chosen]
        if len(set(names)) < len(names):
            raise BadProjection(f"two projections bear one name: {', '.join(sorted(names))}")
        for one in chosen:
            shape_of(one)
            for kind in one.events:
                registry.of(kind)
        return cls(registry, chosen)

    def projection(self, name: str) -> AnyProjection:
        """The one of that name. Raises UnknownProjection."""
        for one in self.projections:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.projections) or "none"
        raise UnknownProjection(
            f"no projection is called {name!r}; there are: {known}",
            hint="name its module in the settings: events.modules",
        )

    def of_mode(self, mode: Mode) -> tuple[AnyProjection, ...]:
        """Those that are run in one way."""
        return tuple(one for one in self.projections if one.mode is mode)


def load_domain(modules: Iterable[str]) -> Domain:
    """Import the modules and collect what they declare. Raises SettingsError, and as `Domain.of`.

    The working folder is looked in as well, as `python -m` does.
    """
    types: dict[int, EventTypes] = {}
    projections: dict[int, AnyProjection] = {}
    for name in modules:
        for value in vars(imported(name)).values():
            if isinstance(value, EventTypes):
                types[id(value)] = value
            elif isinstance(value, Projection):
                projections[id(value)] = value  # pyright: ignore[reportUnknownArgumentType]
    return Domain.of(types.values(), projections.values())


def imported(name: str, *, said: str = _SAID) -> ModuleType:
    """A module of the program. Raises SettingsError where there is none of that name."""
    _look_here()
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise
        raise _absent(name, exc.name, said=said) from exc


def require_module(name: str) -> None:
    """Raise SettingsError where no module of that name is found. Only its packages are run."""
    _look_here()
    try:
        found = find_spec(name)
    except ModuleNotFoundError as exc:
        raise _absent(name, exc.name or name, said=_SAID) from exc
    except Exception as exc:  # whatever a package does
        raise SettingsError(f"{_SAID} {name!r}: {type(exc).__name__}: {exc}") from exc
    if found is None:
        raise _absent(name, name, said=_SAID)


def _look_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _absent(name: str, missing: str, *, said: str) -> SettingsError:
    return SettingsError(
        f"{said} {name!r}, and there is no module {missing!r}",
        hint="install the package, or start in the folder it lies in",
    )
