"""People of a tenant, and what each may change of themselves."""

from __future__ import annotations

from typing import Any

from litestar import Request, Router, delete, get, patch, post, put
from litestar.params import FromQuery, JSONBody
from msgspec import UNSET, Struct, UnsetType

from neolayer.api.fields import STRANGERS_BODY, Body, Code, Id, Line, Secret, Token
from neolayer.api.layer import (
    DEPENDENCIES,
    Acme,
    Asking,
    Opened,
    client_of,
    own_only,
    person_of,
    requires,
)
from neolayer.api.pages import After, PageSize, begin, end
from neolayer.identity import Credentials, Status, User
from neolayer.tenancy.cursors import Pages


class NewUser(Body, kw_only=True):
    email: Line
    username: Line
    password: Secret


class UserPatch(Body, kw_only=True):
    """What an administrator changes of others; a new address is unverified."""

    email: Line | UnsetType = UNSET
    username: Line | UnsetType = UNSET
    status: Status | UnsetType = UNSET


class PasswordBody(Body, kw_only=True):
    """A new password, and the proof that it is asked for by its owner."""

    password: Secret
    new_password: Secret
    code: Code | None = None
    recovery_code: Code | None = None


class ProofBody(Body, kw_only=True):
    """The proof of a person who is logged in already."""

    password: Secret
    code: Code | None = None
    recovery_code: Code | None = None


class EmailBody(ProofBody, kw_only=True):
    """A new address, and the proof that it is asked for by its owner."""

    email: Line


class CodeBody(Body, kw_only=True):
    code: Code


class ResetRequest(Body, kw_only=True):
    tenant: Line
    email: Line


class ResetBody(Body, kw_only=True):
    tenant: Line
    token: Token
    password: Secret


class VerifyBody(Body, kw_only=True):
    tenant: Line
    token: Token


class EnrolmentAnswer(Struct):
    """What the authenticator needs; shown once."""

    uri: str
    secret: str


class RecoveryCodes(Struct):
    """Each opens once; shown once."""

    codes: tuple[str, ...]


class UserPage(Struct):
    items: list[User]
    after: str | None


@post("/", **requires("users:create"))
async def create(acme: Acme, data: JSONBody[NewUser]) -> User:
    """Add a person: active, with an address that is not verified yet."""
    return await acme.users.create(email=data.email, username=data.username, password=data.password)


@get("/", **requires("users:read"))
async def list_users(
    acme: Acme,
    after: After = None,
    limit: PageSize = 100,
    status: FromQuery[Status | None] = None,
) -> UserPage:
    """People by user name; `after` is where the next page begins, null at the end."""
    pages = Pages(acme.scope, "users", {"status": status})
    found = await acme.users.list(after=begin(pages, after), limit=limit, status=status)
    return UserPage(found, end(pages, [user.username for user in found], limit))


@get("/{user_id:uuid}", **requires("users:read"))
async def show(acme: Acme, user_id: Id) -> User:
    """One person."""
    return await acme.users.get(user_id)


@patch("/{user_id:uuid}", **requires("users:update"))
async def change(acme: Acme, user_id: Id, data: JSONBody[UserPatch]) -> User:
    """Another name, address or status: all that is given, or nothing of it."""
    return await acme.users.update(
        user_id,
        username=None if isinstance(data.username, UnsetType) else data.username,
        email=None if isinstance(data.email, UnsetType) else data.email,
        status=None if isinstance(data.status, UnsetType) else data.status,
    )


@delete("/{user_id:uuid}", **requires("users:delete"))
async def remove(acme: Acme, user_id: Id) -> None:
    """Take a person away; the address and the name are free again."""
    await acme.users.delete(user_id)


@get("/me", **own_only())
async def me(request: Asking, acme: Acme) -> User:
    """Who I am."""
    return await acme.users.get(person_of(request))


@put("/me/password", **own_only())
async def change_password(request: Asking, acme: Acme, data: JSONBody[PasswordBody]) -> None:
    """Another password: every session ends, this one too."""
    offered = Credentials(data.password, code=data.code, recovery_code=data.recovery_code)
    await acme.users.change_password(
        person_of(request), offered, client_of(request), password=data.new_password
    )


@put("/me/email", **own_only())
async def change_email(request: Asking, acme: Acme, data: JSONBody[EmailBody]) -> User:
    """Another address of mine, unverified at first."""
    offered = Credentials(data.password, code=data.code, recovery_code=data.recovery_code)
    return await acme.users.move(person_of(request), offered, client_of(request), email=data.email)


@post("/me/mfa", **own_only())
async def begin_mfa(request: Asking, acme: Acme, data: JSONBody[ProofBody]) -> EnrolmentAnswer:
    """A seed for an authenticator; it counts from its first code on."""
    offered = Credentials(data.password, code=data.code, recovery_code=data.recovery_code)
    enrolment = await acme.users.mfa.enrol(person_of(request), offered, client_of(request))
    return EnrolmentAnswer(enrolment.uri, enrolment.secret)


@post("/me/mfa/confirm", **own_only())
async def confirm_mfa(request: Asking, acme: Acme, data: JSONBody[CodeBody]) -> RecoveryCodes:
    """The first code: from now on one is asked for."""
    return RecoveryCodes(await acme.users.mfa.confirm(person_of(request), code=data.code))


@post("/me/mfa/recovery-codes", **own_only())
async def renew_codes(request: Asking, acme: Acme, data: JSONBody[ProofBody]) -> RecoveryCodes:
    """New recovery codes; the old ones are void."""
    offered = Credentials(data.password, code=data.code, recovery_code=data.recovery_code)
    return RecoveryCodes(
        await acme.users.mfa.renew_recovery_codes(person_of(request), offered, client_of(request))
    )


@post("/me/mfa/disable", status_code=204, **own_only())
async def disable_mfa(request: Asking, acme: Acme, data: JSONBody[ProofBody]) -> None:
    """Ask for no codes any more."""
    offered = Credentials(data.password, code=data.code, recovery_code=data.recovery_code)
    await acme.users.mfa.disable(person_of(request), offered, client_of(request))


router = Router(
    "/v1/users",
    route_handlers=[
        create,
        list_users,
        show,
        change,
        remove,
        me,
        change_password,
        change_email,
        begin_mfa,
        confirm_mfa,
        renew_codes,
        disable_mfa,
    ],
    dependencies=DEPENDENCIES,
    tags=["users"],
)


@post("/password-resets", exclude_from_auth=True, status_code=202)
async def request_reset(
    request: Request[Any, Any, Any], platform: Opened, data: JSONBody[ResetRequest]
) -> None:
    """Have a letter sent, if there is somebody to get it: the answer does not tell."""
    await platform.request_reset(data.tenant, data.email, client_of(request))


@post("/password-resets/redeem", exclude_from_auth=True, status_code=204)
async def reset_password(
    request: Request[Any, Any, Any], platform: Opened, data: JSONBody[ResetBody]
) -> None:
    """A new password for the token of the letter; every session ends."""
    await platform.reset_password(
        data.tenant, data.token, client_of(request), password=data.password
    )


@post("/email-verifications/redeem", exclude_from_auth=True, status_code=204)
async def verify_email(
    request: Request[Any, Any, Any], platform: Opened, data: JSONBody[VerifyBody]
) -> None:
    """The token of the letter proves the address."""
    await platform.verify_email(data.tenant, data.token, client_of(request))


@post("/email-verifications", status_code=202, **own_only())
async def request_verification(request: Asking, acme: Acme) -> None:
    """Have a letter sent to my address."""
    await acme.letters.request_verification(person_of(request))


letters = Router(
    "/v1",
    route_handlers=[request_reset, reset_password, verify_email, request_verification],
    request_max_body_size=STRANGERS_BODY,
    dependencies=DEPENDENCIES,
    tags=["users"],
)
