"""`neolayer sessions`: who is logged in, from where, and ending it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from neolayer.cli.output import counted, say, write_json, write_table
from neolayer.cli.principals import UserOption
from neolayer.cli.root import app as root
from neolayer.cli.values import Id, Page
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.errors import InvalidInput
from neolayer.identity import AccessCache, Session, Sessions, person_named

app = App(name="sessions", help="Who is logged in, and ending it.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Limit = Annotated[Page, Parameter(help="How many to show at most, up to 1000.")]


@app.command(name="list")
async def show(
    *, tenant: TenantOption, user: UserOption = None, limit: Limit = 100, as_json: AsJson = False
) -> None:
    """List living sessions, the last used first.

    Example: neolayer sessions list --user ann@example.com --tenant acme
    """
    async with tenant_scope(tenant) as (core, scope):
        user_id = None if user is None else (await person_named(scope, user)).user_id
        found = await Sessions(scope, AccessCache(core)).list(user_id, limit=limit)
    if as_json:
        write_json([_session(session) for session in found])
        return
    write_table(
        ("session", "user", "last seen", "ends", "from", "with"),
        [
            (s.id, s.user_id, s.last_seen_at, s.expires_at, s.last_ip_address, s.user_agent)
            for s in found
        ],
    )


@app.command
async def revoke(
    session: Annotated[Id | None, Parameter(help="Id of the session.")] = None,
    /,
    *,
    tenant: TenantOption,
    user: UserOption = None,
    but: Annotated[Id | None, Parameter(help="With --user: the one session that stays.")] = None,
    as_json: AsJson = False,
) -> None:
    """End one session by its id, or all of a user, everywhere within a second.

    Example: neolayer sessions revoke --user ann@example.com --tenant acme
    """
    if (session is None) == (user is None) or (but is not None and user is None):
        raise InvalidInput("name a session, or a user with --user")
    async with tenant_scope(tenant) as (core, scope):
        sessions = Sessions(scope, AccessCache(core))
        ended = 1
        if session is not None:
            await sessions.revoke(session, reason="operator")
        elif user is not None and (user_id := (await person_named(scope, user)).user_id):
            ended = await sessions.revoke_all(user_id, but=but, reason="operator")
    if as_json:
        write_json({"ended": ended})
    else:
        say(f"ended {counted(ended, 'session')}")


def _session(session: Session) -> dict[str, object]:
    return {
        "id": session.id,
        "user_id": session.user_id,
        "created_at": session.created_at,
        "last_seen_at": session.last_seen_at,
        "expires_at": session.expires_at,
        "ip_address": session.ip_address,
        "last_ip_address": session.last_ip_address,
        "user_agent": session.user_agent,
    }
