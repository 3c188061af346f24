"""Whom a command is about: `--user` or `--service`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from neolayer.errors import InvalidInput
from neolayer.identity import person_named, service_named
from neolayer.tenancy import Principal, Scope

UserOption = Annotated[
    str | None, Parameter(name="--user", help="A person: e-mail address, user name or id.")
]
ServiceOption = Annotated[str | None, Parameter(name="--service", help="A service by name.")]


async def find_principal(scope: Scope, *, user: str | None, service: str | None) -> Principal:
    """The one that was named. Raises InvalidInput unless it is exactly one, PrincipalNotFound."""
    match user, service:
        case str(), None:
            return await person_named(scope, user)
        case None, str():
            return await service_named(scope, service)
        case _:
            raise InvalidInput("name one principal", hint="say --user or --service")
