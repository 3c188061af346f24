"""`neolayer config`: what the layer would use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, cast

from cyclopts import App, Parameter
from pydantic import BaseModel, SecretStr

from neolayer.cli.output import write_json, write_table
from neolayer.cli.root import app, invocation
from neolayer.settings import Settings
from neolayer.telemetry import mask

config = App(name="config", help="Show the configuration.")
app.command(config)


@config.command
def show(*, json: Annotated[bool, Parameter(help="Print JSON.")] = False) -> None:
    """Show every setting, where it can be set and its value; secrets are masked.

    Example: neolayer config show --json
    """
    rows = list(describe(invocation().settings))
    if json:
        write_json({name: value for name, _, value, _ in rows})
    else:
        write_table(
            ("setting and variable", "value", "meaning"),
            ((f"{name}\n{variable}", *rest) for name, variable, *rest in rows),
            whole="setting and variable",
        )


def describe(settings: Settings) -> Iterator[tuple[str, str, str | int | float | None, str]]:
    """(dotted name, variable, masked value, meaning) of every setting, in file order."""
    yield from _describe(settings, ())


def _describe(
    section: BaseModel, path: tuple[str, ...]
) -> Iterator[tuple[str, str, str | int | float | None, str]]:
    for name, field in type(section).model_fields.items():
        value: object = getattr(section, name)
        here = (*path, name)
        if isinstance(value, BaseModel):
            yield from _describe(value, here)
        else:
            variable = "NEOLAYER_" + "__".join(here).upper()
            yield ".".join(here), variable, _shown(name, value), field.description or ""


def _shown(name: str, value: object) -> str | int | float | None:
    if isinstance(value, tuple):
        return ", ".join(str(_shown(name, each)) for each in cast("tuple[object, ...]", value))
    if isinstance(value, SecretStr):  # of a DSN only the password is secret
        return mask(value.get_secret_value()) if name.endswith("dsn") else "***"
    return value if isinstance(value, int | float) or value is None else mask(str(value))
