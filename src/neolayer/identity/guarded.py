"""A change of who may do what: one transaction, in which the database has the last word.

The rules that must hold whatever code is written above stand in the database (migration 0032):
nobody gives what they do not hold, a tenant keeps an owner, no role of another tenant is granted.
Here its refusals become our errors, and a refused escalation becomes an audit entry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import overload

import psycopg

from neolayer import audit
from neolayer.errors import AccessDenied, Conflict, InvalidInput, NotFound
from neolayer.tenancy import Scope, Transaction


class EscalationRefused(AccessDenied):
    """Nobody gives what they do not hold."""

    def __init__(self, permission: str) -> None:
        super().__init__(
            f"nobody gives what they do not hold, or for longer: {permission} is missing",
            hint="ask somebody who holds it",
        )
        self.permission = permission


class LastOwner(Conflict):
    """A tenant keeps one owner at least."""

    def __init__(self) -> None:
        super().__init__(hint="grant the role owner, without an end, to somebody else first")


class PrincipalNotFound(NotFound):
    """There is no such user or service."""


class NameTaken(Conflict):
    """The name is taken."""


@asynccontextmanager
async def guarded(scope: Scope, entry: audit.Entry) -> AsyncGenerator[Transaction]:
    """A transaction with its audit entry; where it is refused as an escalation, that is one too.

    Raises EscalationRefused, LastOwner, PrincipalNotFound, NameTaken.
    """
    async with refusing(scope, entry) as tx:
        yield tx
        audit.append(tx, entry)


@asynccontextmanager
async def refusing(scope: Scope, entry: audit.Entry) -> AsyncGenerator[Transaction]:
    """The same without the entry, for who writes down more exactly what was done; `entry` says
    what was refused. Raises as `guarded`.
    """
    try:
        async with scope.transaction() as tx:
            yield tx
    except EscalationRefused as refused:
        await _note(scope, entry, refused)
        raise
    except psycopg.Error as exc:
        error = refusal(exc)
        if error is None:
            raise
        if isinstance(error, EscalationRefused):
            await _note(scope, entry, error)
        raise error from exc


async def _note(scope: Scope, entry: audit.Entry, refused: EscalationRefused) -> None:
    """Write down that the change of `entry` was refused; the change itself was rolled back."""
    async with scope.transaction() as tx:
        audit.append(tx, replace(entry, success=False, error_message=refused.message))


def refusal(
    exc: psycopg.Error,
) -> EscalationRefused | LastOwner | PrincipalNotFound | NameTaken | None:
    """What the database meant by an error, where it is one of the rules of this room."""
    match exc, exc.diag.constraint_name:
        case psycopg.errors.InsufficientPrivilege(), "no_escalation":
            return EscalationRefused(exc.diag.message_detail or "")
        case psycopg.errors.RestrictViolation(), "last_owner":
            return LastOwner()
        case psycopg.errors.ForeignKeyViolation(), "user_roles_user_fkey":
            return PrincipalNotFound()
        case psycopg.errors.ForeignKeyViolation(), "service_roles_service_fkey":
            return PrincipalNotFound()
        case psycopg.errors.UniqueViolation(), "roles_name_unique":
            return NameTaken("a role of this name is there already")
        case psycopg.errors.UniqueViolation(), "service_principals_name_unique":
            return NameTaken("a service of this name is there already")
        case _:
            return None


@overload
def source_address(text: str) -> str: ...
@overload
def source_address(text: None) -> None: ...
def source_address(text: str | None) -> str | None:
    """An address as PostgreSQL takes it, without the zone of a link-local one.

    Raises InvalidInput.
    """
    if text is None:
        return None
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        raise InvalidInput("the source address is no IP address") from None
