"""`neolayer audit`: who did what, and the proof that nobody changed it since."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Parameter

from neolayer.audit.anchors import Anchorer, AnchorStore
from neolayer.audit.entries import Action
from neolayer.audit.findings import Finding
from neolayer.audit.reading import (
    AuditTrail,
    ChainHead,
    Operator,
    Reader,
    StoredEntry,
    audit_status,
    heads,
)
from neolayer.audit.verify import EveryChain, Report
from neolayer.audit.verify import verify as verify_trail
from neolayer.cli.output import counted, say, write_json, write_line, write_table
from neolayer.cli.progress import Counting
from neolayer.cli.root import answering, invocation
from neolayer.cli.root import app as root
from neolayer.cli.values import Count, Instant
from neolayer.cli.within_tenant import tenant_scope
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.platform import endpoints
from neolayer.tenancy.directory import open_directory

app = App(name="audit", help="Show who did what, and prove that nobody changed it since.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Tenant = Annotated[
    str | None, Parameter(help="Identifier or id of the tenant; without: see above.")
]
TAMPERED = 1


@app.command(name="list")
async def list_(
    *,
    tenant: Tenant = None,
    action: Annotated[Action | None, Parameter(help="Only this kind of action.")] = None,
    resource: Annotated[str | None, Parameter(help="Only things of this kind, as user.")] = None,
    resource_id: Annotated[str | None, Parameter(name="--id", help="Only this thing.")] = None,
    principal: Annotated[str | None, Parameter(help="Only by whom, as operator:ann.")] = None,
    failed: Annotated[bool, Parameter(help="Only what was refused or failed.")] = False,
    since: Annotated[Instant | None, Parameter(help="Only from then on (UTC).")] = None,
    limit: Annotated[Count, Parameter(help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show a tenant's entries, the newest first; without --tenant those of no tenant.

    Example: neolayer audit list --tenant acme --failed
    """
    async with AsyncExitStack() as opened:
        reader: Reader = Operator(_endpoints().postgres.dsn(Role.OPERATOR))
        if tenant is not None:
            _, reader = await opened.enter_async_context(tenant_scope(tenant))
        entries = await AuditTrail(reader).list(
            action=action,
            resource=resource,
            resource_id=resource_id,
            principal=principal,
            success=False if failed else None,
            since=since,
            limit=limit,
        )
    if as_json:
        write_json([_entry(entry) for entry in entries])
    elif not entries:
        say("No such entries.")
    else:
        write_table(("number", "at (UTC)", "who", "did", "what", "result"), map(_line, entries))


@app.command
async def verify(*, tenant: Tenant = None, as_json: AsJson = False) -> int:
    """Check every seal, chain and anchor, or one tenant's; name each row that was tampered with.

    The exit code is 0 when nothing was found, 1 when something was, 3 when anything kept it from
    looking.

    Example: neolayer audit verify --tenant acme
    """
    at = _endpoints()
    with answering(), Counting("entries") as counting:
        chosen = EveryChain.EVERY if tenant is None else await _tenant_id(at, tenant)
        report = await verify_trail(
            at.postgres.dsn(Role.OPERATOR),
            AnchorStore(at.objects),
            tenant=chosen,
            on_progress=lambda so_far: counting.show(so_far.entries),
        )
        status = await audit_status(at.postgres.dsn(Role.OPERATOR))
    if as_json:
        write_json({**_report(report), "unsealed": status.unsealed})
    else:
        _show_report(report)
        if status.unsealed:
            say(f"{status.unsealed} entries wait for a seal, for {status.lag_seconds:.1f} s.")
    return 0 if report.is_intact else TAMPERED


@app.command
async def head(*, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show where every chain ends, or one tenant's: number and hash to be noted down elsewhere.

    Example: neolayer audit head --json
    """
    at = _endpoints()
    found = await heads(at.postgres.dsn(Role.OPERATOR))
    if tenant is not None:
        chosen = await _tenant_id(at, tenant)
        found = [each for each in found if each.tenant == chosen]
    if as_json:
        write_json([_head(each) for each in found])
        return
    columns = ("chain", "number", "sealed at (UTC)", "anchored")
    rows = [(_name(h), h.number, _instant(h.sealed_at), h.anchored_number) for h in found]
    write_table(columns, rows)
    for each in found:
        print(f" {_name(each)}: {each.hash.hex()}")


@app.command
async def anchor(*, as_json: AsJson = False) -> None:
    """Write the heads of all chains that have grown to the object store, now.

    Example: neolayer audit anchor
    """
    at = _endpoints()
    stored = await Anchorer(at.postgres.dsn(Role.AUDITOR), AnchorStore(at.objects)).write_anchor()
    if as_json:
        write_json(
            None
            if stored is None
            else {
                "anchor": stored.anchor.anchor,
                "key": stored.key,
                "sha256": stored.hash.hex(),
                "chains": len(stored.anchor.heads),
            }
        )
    elif stored is None:
        say("No chain has grown since the last anchor.")
    else:
        say(
            f"Anchor {stored.anchor.anchor} of {counted(len(stored.anchor.heads), 'chain')}"
            " is written."
        )
        print(f"{stored.key} {stored.hash.hex()}")


def _endpoints() -> Endpoints:
    return endpoints(invocation().settings)


async def _tenant_id(at: Endpoints, text: str) -> UUID:
    async with open_directory(at) as directory:
        return (await directory.find(text)).id


def _instant(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _entry(entry: StoredEntry) -> dict[str, Any]:
    return asdict(entry)


def _line(entry: StoredEntry) -> tuple[object, ...]:
    what = entry.resource if entry.resource_id is None else f"{entry.resource} {entry.resource_id}"
    result = "done" if entry.success else entry.error_message or "failed"
    when = _instant(entry.occurred_at)
    return entry.number or "unsealed", when, entry.principal, entry.action, what, result


def _name(head: ChainHead) -> str:
    return head.identifier or (str(head.tenant) if head.tenant else "(no tenant)")


def _head(head: ChainHead) -> dict[str, Any]:
    return {
        "tenant": head.tenant,
        "identifier": head.identifier,
        "number": head.number,
        "hash": head.hash.hex(),
        "sealed_at": head.sealed_at,
        "anchored_number": head.anchored_number,
    }


def _report(report: Report) -> dict[str, Any]:
    return {
        "intact": report.is_intact,
        "chains": report.chains,
        "entries": report.entries,
        "anchors": report.anchors,
        "found": report.found,
        "findings": [asdict(finding) for finding in report.findings],
    }


def _show_report(report: Report) -> None:
    counts = ", ".join(
        (
            counted(report.chains, "chain"),
            counted(report.entries, "entry", "entries"),
            counted(report.anchors, "anchor"),
        )
    )
    for finding in report.findings:
        write_line(_sentence(finding))
    if report.found > len(report.findings):
        say(f"and {report.found - len(report.findings)} more")
    say(f"{counts}: {'intact' if report.is_intact else 'TAMPERED WITH'}")


def _sentence(finding: Finding) -> str:
    """Such as `edited: acme number 4, entry ...: its content is not what was sealed`."""
    if finding.kind.is_of_an_anchor:
        return f"{finding.kind}: {finding.what}"
    chain = f"tenant {finding.tenant}" if finding.tenant else "the chain of no tenant"
    row = f", entry {finding.entry}" if finding.entry else ""
    return f"{finding.kind}: {chain}, number {finding.number}{row}: {finding.what}"
