"""`neolayer computations`: what enclaves were asked, and how far each is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.values import Id, Page
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.enclave import Computations, ComputationStatus

app = App(name="computations", help="What enclaves were asked to compute.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]


@app.command(name="list")
async def list_computations(
    *,
    tenant: TenantOption,
    enclave: Annotated[str | None, Parameter(help="Only this enclave's.")] = None,
    status: Annotated[ComputationStatus | None, Parameter(help="Only these.")] = None,
    after: Annotated[Id | None, Parameter(help="Begin after this id.")] = None,
    limit: Annotated[Page, Parameter(help="How many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List computations, the newest first.

    Example: neolayer computations list --tenant acme --status running
    """
    async with tenant_scope(tenant) as (_, scope):
        found = await Computations(scope).list(
            enclave_id=enclave, status=status, after=after, limit=limit
        )
    if as_json:
        write_json([asdict(one) for one in found])
        return
    write_table(
        ("id", "enclave", "operation", "status", "attempt", "worker", "gas"),
        [
            (
                *(one.id, one.enclave_id, one.operation_type, one.status, one.attempt),
                *(one.worker, one.gas_used),
            )
            for one in found
        ],
    )
    if len(found) == limit:
        say(f"There may be more: --after {found[-1].id}")


@app.command
async def show(
    computation: Annotated[Id, Parameter(help="Id of the computation.")],
    /,
    *,
    tenant: TenantOption,
    as_json: AsJson = False,
) -> None:
    """Show one computation, without its result.

    Example: neolayer computations show 6f1c9c1e-0f5e-4a55-9d2b-3f1f6b0a7c11 --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        found = await Computations(scope).computation(computation)
    if as_json:
        write_json(asdict(found))
    else:
        write_table(("what", "value"), list(asdict(found).items()))
