"""Whom an operator names: a person by e-mail address, user name or id, or a service by name."""

from __future__ import annotations

import unicodedata
from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity.guarded import PrincipalNotFound
from neolayer.tenancy import Principal, Scope

QUERIES = load_queries(__name__, "access.sql")


async def person_named(scope: Scope, text: str) -> Principal:
    """The living person of that address, user name or id. Raises PrincipalNotFound."""
    name = unicodedata.normalize("NFC", text.strip()).lower()
    if not name.isprintable():
        raise PrincipalNotFound
    row = await scope.one(QUERIES.person_named, {"name": name, "id": _as_id(name)})
    if row is None:
        raise PrincipalNotFound
    return Principal.user(row[0])


async def service_named(scope: Scope, name: str) -> Principal:
    """The service of that name. Raises PrincipalNotFound."""
    row = await scope.one(QUERIES.find_service, {"name": name}) if name.isprintable() else None
    if row is None:
        raise PrincipalNotFound
    return Principal.service(row[0])


def _as_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
