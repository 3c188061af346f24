"""`neolayer sealed`: what enclaves have sealed, who may open it, what an upgrade would strand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter

from neolayer.cli.attestations import given
from neolayer.cli.output import say, write_json, write_line, write_table
from neolayer.cli.root import app as root
from neolayer.cli.values import Id, Instant, Page, whole
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.enclave import SealedData, SealedDataStore, Upgrade

app = App(name="sealed", help="Sealed data: what is there, and who may open it.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Limit = Annotated[Page, Parameter(help="How many at most.")]
After = Annotated[str | None, Parameter(help="Begin after this name.")]
Unsigned16 = Annotated[int, whole(0, 65_535)]
MAY_NOT = 1


@app.command(name="list")
async def list_sealed(
    *,
    tenant: TenantOption,
    enclave: Annotated[str | None, Parameter(help="Only this enclave's.")] = None,
    after: After = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List sealed data by name, without the bytes.

    Example: neolayer sealed list --tenant acme --enclave vault
    """
    async with tenant_scope(tenant) as (_, scope):
        found = await SealedDataStore(scope).list(enclave_id=enclave, after=after, limit=limit)
    if as_json:
        write_json([_plain(one) for one in found])
        return
    write_table(
        ("name", "version", "enclave", "policy", "bytes", "changed"),
        [
            (
                *(one.data_key, one.version, one.enclave_id, one.sealing.policy, one.size),
                f"{one.updated_at:%Y-%m-%d %H:%M}",
            )
            for one in found
        ],
    )
    if len(found) == limit:
        say(f"There may be more: --after {found[-1].data_key}")


@app.command
async def may_open(
    attestation: Annotated[Id, Parameter(help="Id of the enclave's attestation.")],
    name: Annotated[str, Parameter(help="Name of the sealed data.")],
    /,
    *,
    tenant: TenantOption,
    at: Annotated[Instant | None, Parameter(help="At this time (UTC); default: now.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say whether an attested enclave may open it; exits with 1 where it may not.

    Example: neolayer sealed may-open 6f1c9c1e-0f5e-4a55-9d2b-3f1f6b0a7c11 master-key --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        answer = await SealedDataStore(scope).may_open(attestation, name, at=given(at))
    if as_json:
        write_json(asdict(answer) | {"may_open": answer.is_yes})
    else:
        write_line(f"{answer.opening}: {answer.note}" if answer.note else str(answer.opening))
    return 0 if answer.is_yes else MAY_NOT


@app.command
async def stranded(
    enclave: Annotated[str, Parameter(help="The enclave that is to be upgraded.")],
    /,
    *,
    tenant: TenantOption,
    mr_enclave: Annotated[str, Parameter(help="Measurement of the next build.")],
    mr_signer: Annotated[str, Parameter(help="Its signer.")],
    product: Annotated[Unsigned16, Parameter(help="Its product id.")] = 0,
    svn: Annotated[Unsigned16, Parameter(help="Its security version.")] = 0,
    after: After = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> int:
    """List what an enclave's next build could not open; exits with 1 where there is any.

    Example: neolayer sealed stranded vault --tenant acme --mr-enclave "$BUILD" --mr-signer
    "$SIGNER"
    """
    upgrade = Upgrade(enclave, mr_enclave, mr_signer, product, svn)
    async with tenant_scope(tenant) as (_, scope):
        found = await SealedDataStore(scope).stranded_by(upgrade, after=after, limit=limit)
    if as_json:
        write_json([_plain(one) | {"because": why} for one, why in found])
    elif not found:
        say("Nothing would be stranded.")
    else:
        rows = [(one.data_key, one.version, one.sealing.policy, why) for one, why in found]
        write_table(("name", "version", "policy", "because"), rows)
        if len(found) == limit:
            say(f"There may be more: --after {found[-1][0].data_key}")
    return MAY_NOT if found else 0


def _plain(one: SealedData) -> dict[str, Any]:
    return asdict(one)
