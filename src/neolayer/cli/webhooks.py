"""`neolayer webhooks`: where a tenant's programs are told of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_line, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.values import LARGEST, number, whole
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.platform import keyring
from neolayer.webhooks import NewWebhook, Webhooks

app = App(name="webhooks", help="Where a tenant's programs are told of events, over HTTP.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Name = Annotated[str, Parameter(help="Name of the webhook.")]
Url = Annotated[str, Parameter(help="Where deliveries are posted; https.")]
Types = Annotated[
    list[str] | None,
    Parameter(name="--event", help="wallet.created, wallet.* or *; repeat it for several."),
]
Overlap = Annotated[
    float, number(0, 30 * 24), Parameter(help="Hours in which the old secret signs too (0: none).")
]
Status = Annotated[Literal["pending", "delivered", "parked"] | None, Parameter(help="Only these.")]
Numbers = Annotated[
    list[int] | None,
    whole(1, LARGEST),
    Parameter(name="--number", help="These instead of what is parked."),
]


@asynccontextmanager
async def _webhooks(tenant: str) -> AsyncGenerator[Webhooks]:
    async with (
        tenant_scope(tenant) as (_, scope),
        keyring(invocation().settings) as opened,
    ):
        yield Webhooks(scope, opened)


@app.command(name="list")
async def show(*, tenant: TenantOption, as_json: AsJson = False) -> None:
    """List the tenant's webhooks, how they fare, and what waits for them.

    Example: neolayer webhooks list --tenant acme --json
    """
    async with _webhooks(tenant) as webhooks:
        found = await webhooks.list()
    if as_json:
        write_json([asdict(one) for one in found])
        return
    write_table(
        ("webhook", "status", "events", "pending", "parked", "last delivered"),
        [
            (
                *(one.name, one.status, ", ".join(one.event_types), one.pending, one.parked),
                one.last_delivered_at and f"{one.last_delivered_at:%Y-%m-%d %H:%M:%S}",
            )
            for one in found
        ],
    )
    for one in found:
        write_line(f" {one.name}: {one.url}")
        if trouble := one.disabled_reason or one.last_error:
            write_line(f" {one.name}: {trouble}")


@app.command
async def create(
    name: Name,
    url: Url,
    /,
    *,
    tenant: TenantOption,
    event: Types = None,
    as_json: AsJson = False,
) -> None:
    """Make a webhook and print the secret that signs its deliveries, once.

    Example: neolayer webhooks create billing https://acme.example/hooks --tenant acme
    """
    async with _webhooks(tenant) as webhooks:
        made = await webhooks.create(name, url, event or ["*"])
    _tell(made, name, as_json=as_json)


@app.command
async def rotate(
    name: Name, /, *, tenant: TenantOption, overlap_hours: Overlap = 24, as_json: AsJson = False
) -> None:
    """Make another secret and print it, once; the old one signs beside it for a while.

    Example: neolayer webhooks rotate billing --tenant acme --overlap-hours 48
    """
    overlap = timedelta(hours=overlap_hours)
    async with _webhooks(tenant) as webhooks:
        made = await webhooks.rotate((await webhooks.get(name)).id, overlap=overlap)
    _tell(made, name, as_json=as_json)


@app.command
async def disable(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Tell it nothing more; what waits for it stays a while.

    Example: neolayer webhooks disable billing --tenant acme
    """
    async with _webhooks(tenant) as webhooks:
        await webhooks.disable((await webhooks.get(name)).id)
    _done({"name": name, "status": "disabled"}, f"disabled the webhook {name}", as_json=as_json)


@app.command
async def enable(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Go on with what waits, and tell it what comes.

    Example: neolayer webhooks enable billing --tenant acme
    """
    async with _webhooks(tenant) as webhooks:
        await webhooks.enable((await webhooks.get(name)).id)
    _done({"name": name, "status": "active"}, f"enabled the webhook {name}", as_json=as_json)


@app.command
async def delete(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Delete a webhook with what waits for it.

    Example: neolayer webhooks delete billing --tenant acme
    """
    async with _webhooks(tenant) as webhooks:
        await webhooks.delete((await webhooks.get(name)).id)
    _done({"name": name, "deleted": True}, f"deleted the webhook {name}", as_json=as_json)


@app.command
async def trial(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Send one event of type webhook.trial, behind what waits.

    Example: neolayer webhooks trial billing --tenant acme
    """
    async with _webhooks(tenant) as webhooks:
        event_id = await webhooks.send_trial((await webhooks.get(name)).id)
    _done({"name": name, "event_id": event_id}, f"queued the trial {event_id}", as_json=as_json)


@app.command
async def deliveries(
    name: Name, /, *, tenant: TenantOption, status: Status = None, as_json: AsJson = False
) -> None:
    """List the newest deliveries and what became of them.

    Example: neolayer webhooks deliveries billing --tenant acme --status parked
    """
    async with _webhooks(tenant) as webhooks:
        found = await webhooks.deliveries((await webhooks.get(name)).id, status=status)
    if as_json:
        write_json([asdict(one) for one in found])
        return
    write_table(
        ("number", "event", "type", "status", "tries", "last error", "since"),
        [
            (
                *(one.number, one.event_id, one.event_type, one.status, one.attempts),
                *(one.last_error, one.created_at),
            )
            for one in found
        ],
    )


@app.command
async def replay(
    name: Name, /, *, tenant: TenantOption, number: Numbers = None, as_json: AsJson = False
) -> None:
    """Send again what was parked, or deliveries by number.

    Example: neolayer webhooks replay billing --tenant acme
    """
    async with _webhooks(tenant) as webhooks:
        count = await webhooks.replay((await webhooks.get(name)).id, number)
    _done({"name": name, "replayed": count}, f"{count} will be sent again", as_json=as_json)


def _tell(made: NewWebhook, name: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"id": made.id, "name": name, "secret": made.secret})
    else:
        print(made.secret)
        say(f"the secret of {name} is not shown again")


def _done(facts: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        write_json(facts)
    else:
        say(sentence)
