"""The tenant a command is about, and the operator who runs it."""

from __future__ import annotations

import getpass
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from cyclopts import Parameter

from neolayer.cli.root import invocation
from neolayer.engines.endpoints import Endpoints
from neolayer.platform import endpoints
from neolayer.tenancy import CoreDatabase, Principal, Scope, open_core
from neolayer.tenancy.directory import open_directory

# For commands: tenant: TenantOption
TenantOption = Annotated[str, Parameter(name="--tenant", help="Identifier or id of the tenant.")]
_SIZE = 4


def operator() -> Principal:
    """Whoever runs the command, by the name of the login."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        name = "unknown"
    return Principal.operator(name if name.isprintable() else "unknown")


@asynccontextmanager
async def tenant_scope(text: str) -> AsyncGenerator[tuple[CoreDatabase, Scope]]:
    """The core database, and the named tenant's scope for the operator who runs the command.

    `text` is an identifier or id. Raises TenantNotFound, NotRunning, EngineUnavailable.
    """
    at = endpoints(invocation().settings)
    async with open_directory(at) as directory:
        tenant = await directory.find(text)
    async with open_core(at, size=_SIZE, application_name="cli") as core:
        yield core, core.scope(tenant.id, by=operator())


@asynccontextmanager
async def platform_scope() -> AsyncGenerator[tuple[Endpoints, Scope]]:
    """Where the engines are, and a scope of no tenant for the operator who runs the command."""
    at = endpoints(invocation().settings)
    async with open_core(at, size=_SIZE, application_name="cli") as core:
        yield at, core.platform(by=operator())
