"""`neolayer users`: the people of a tenant. Passwords and codes come from a prompt or a pipe."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.secret_input import read_secret
from neolayer.cli.values import Page, Zoned
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.identity import PasswordHasher, Status, User, Users
from neolayer.platform import keyring

app = App(name="users", help="People of a tenant: who may log in, and how.")
mfa = App(name="mfa", help="A user's second factor.")
app.command(mfa)
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Name = Annotated[str, Parameter(help="E-mail address, user name or id.")]
Email = Annotated[str, Parameter(help="E-mail address.")]
Username = Annotated[str, Parameter(help="User name: a-z and digits, with single . _ - between.")]
PasswordFile = Annotated[
    Path | None, Parameter(help="File with the password, instead of a prompt or a pipe.")
]
Until = Annotated[Zoned | None, Parameter(help="When a lock ends, as 2030-01-31T12:00:00+00:00.")]


@app.command
async def create(
    *,
    tenant: TenantOption,
    email: Email,
    username: Username,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a user; the password is asked for, or read from a pipe.

    Example: neolayer users create --tenant acme --email ann@example.com --username ann
    """
    password = read_secret("Password", password_file, twice=True)
    async with _users(tenant) as users:
        user = await users.create(email=email, username=username, password=password)
    _answer(user, as_json=as_json)


@app.command(name="list")
async def show_all(
    *,
    tenant: TenantOption,
    after: Annotated[str, Parameter(help="Begin after this user name.")] = "",
    limit: Annotated[Page, Parameter(help="At most so many.")] = 100,
    status: Annotated[Status | None, Parameter(help="Only those of this status.")] = None,
    as_json: AsJson = False,
) -> None:
    """List users by user name, a page at a time.

    Example: neolayer users list --tenant acme --status locked
    """
    async with _users(tenant) as users:
        page = await users.list(after=after, limit=limit, status=status)
    if as_json:
        write_json([_json(user) for user in page])
        return
    write_table(("user name", "e-mail", "status", "second factor", "last login"), map(_row, page))
    if len(page) == limit:
        say(f"there may be more: --after {page[-1].username}")


@app.command
async def show(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Show one user.

    Example: neolayer users show ann@example.com --tenant acme
    """
    async with _users(tenant) as users:
        user = await _find(users, name)
    _answer(user, as_json=as_json)


@app.command
async def rename(
    name: Name, /, *, tenant: TenantOption, username: Username, as_json: AsJson = False
) -> None:
    """Change a user name.

    Example: neolayer users rename ann --username ann.smith --tenant acme
    """
    async with _users(tenant) as users:
        user = await users.rename((await _find(users, name)).id, username=username)
    _answer(user, as_json=as_json)


@app.command(name="email")
async def change_email(
    name: Name, /, *, tenant: TenantOption, email: Email, as_json: AsJson = False
) -> None:
    """Change an e-mail address, which is then not verified.

    Example: neolayer users email ann --email ann@example.org --tenant acme
    """
    async with _users(tenant) as users:
        user = await users.change_email((await _find(users, name)).id, email=email)
    _answer(user, as_json=as_json)


@app.command(name="status")
async def set_status(
    name: Name,
    status: Annotated[Status, Parameter(help="Only active users may log in.")],
    /,
    *,
    tenant: TenantOption,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Keep a user out and end their sessions, or let them in again.

    Example: neolayer users status ann locked --until 2030-01-31T12:00:00+00:00 --tenant acme
    """
    async with _users(tenant) as users:
        user = await users.set_status((await _find(users, name)).id, status=status, until=until)
    _answer(user, as_json=as_json)


@app.command
async def password(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a user a new password and end their sessions.

    Example: neolayer users password ann --tenant acme
    """
    secret = read_secret("New password", password_file, twice=True)
    async with _users(tenant) as users:
        user = await users.set_password((await _find(users, name)).id, password=secret)
    _answer(user, as_json=as_json)


@app.command
async def delete(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    anonymise: Annotated[
        bool, Parameter(help="Also erase what names the person; works on who was deleted, by id.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a user away; the e-mail address and the user name are free again.

    Example: neolayer users delete ann --tenant acme
    """
    async with _users(tenant) as users:
        if anonymise:
            user_id = _id(name) or (await _find(users, name)).id
            await users.anonymise(user_id)
        else:
            user_id = (await _find(users, name)).id
            await users.delete(user_id)
    done = "anonymised" if anonymise else "deleted"
    if as_json:
        write_json({"id": user_id, done: True})
    else:
        say(f"{user_id} is {done}")


@mfa.command
async def begin(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Make a seed for a user's authenticator and show it once; `confirm` turns it on.

    Example: neolayer users mfa begin ann --tenant acme
    """
    async with _users(tenant) as users:
        enrolment = await users.mfa.begin((await _find(users, name)).id)
    if as_json:
        write_json({"uri": enrolment.uri, "secret": enrolment.secret})
    else:
        print(enrolment.uri)  # as it is: it goes into a QR code
        say("add it to an authenticator, then: neolayer users mfa confirm")


@mfa.command
async def confirm(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Turn the second factor on with a code, and show the recovery codes once.

    Example: neolayer users mfa confirm ann --tenant acme
    """
    code = read_secret("Code")
    async with _users(tenant) as users:
        codes = await users.mfa.confirm((await _find(users, name)).id, code=code)
    if as_json:
        write_json({"recovery_codes": codes})
        return
    say("these codes stand in for a lost authenticator, each once; they are not shown again:")
    for recovery_code in codes:
        print(recovery_code)


@mfa.command(name="show")
async def show_mfa(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Show whether a second factor is on, and how many recovery codes are left.

    Example: neolayer users mfa show ann --tenant acme
    """
    async with _users(tenant) as users:
        user = await _find(users, name)
        left = await users.mfa.recovery_codes_left(user.id)
    if as_json:
        write_json({"mfa_enabled": user.mfa_enabled, "recovery_codes_left": left})
    else:
        write_table(("second factor", "recovery codes left"), [(_on(user), left)])


@mfa.command
async def remove(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Take the second factor of somebody away who has lost everything, and end their sessions.

    Example: neolayer users mfa remove ann --tenant acme
    """
    async with _users(tenant) as users:
        user = await _find(users, name)
        await users.mfa.remove(user.id)
    if as_json:
        write_json({"id": user.id, "mfa_enabled": False})
    else:
        say(f"{user.username} logs in with the password alone from now on")


@asynccontextmanager
async def _users(tenant: str) -> AsyncGenerator[Users]:
    async with keyring(invocation().settings) as keys, tenant_scope(tenant) as (_, scope):
        with PasswordHasher() as hasher:
            yield Users(scope, hasher, keys)


async def _find(users: Users, name: str) -> User:
    user_id = _id(name)
    return await (users.find(name) if user_id is None else users.get(user_id))


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _answer(user: User, *, as_json: bool) -> None:
    if as_json:
        write_json(_json(user))
    else:
        rows = [(field.replace("_", " "), value) for field, value in _json(user).items()]
        write_table(("", ""), rows)


def _json(user: User) -> dict[str, Any]:
    return {field.name: getattr(user, field.name) for field in dataclasses.fields(user)}


def _row(user: User) -> tuple[object, ...]:
    last = user.last_login_at and user.last_login_at.isoformat(timespec="seconds")
    return (user.username, user.email, user.status, _on(user), last)


def _on(user: User) -> str:
    return "on" if user.mfa_enabled else "off"
