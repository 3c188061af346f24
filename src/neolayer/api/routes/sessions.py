"""Logging in, staying in, and getting out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from litestar import Request, Response, Router, delete, get, post
from litestar.datastructures import Cookie
from litestar.params import JSONBody
from msgspec import Struct

from neolayer.api.callers import bearer_token
from neolayer.api.fields import STRANGERS_BODY, Body, Code, Id, Line, Secret, Token
from neolayer.api.layer import (
    DEPENDENCIES,
    Acme,
    Asking,
    Opened,
    client_of,
    is_secure,
    own_only,
    person_of,
    requires,
)
from neolayer.identity import Credentials, Session, Tokens

DEVICE_COOKIE = "neolayer_device"
_DEVICE_SECONDS = 400 * 86_400  # as long as browsers keep one


class LoginBody(Body, kw_only=True):
    """Who logs in where. One of `code` and `recovery_code` where a second factor is on."""

    tenant: Line
    name: Line
    password: Secret
    code: Code | None = None
    recovery_code: Code | None = None


class RefreshBody(Body, kw_only=True):
    refresh_token: Token


class TokensAnswer(Struct):
    """The tokens of a session; nobody can read them again."""

    session_id: UUID
    access_token: str
    refresh_token: str
    access_expires_at: datetime
    expires_at: datetime
    token_type: str = "Bearer"  # noqa: S105


@post("/", exclude_from_auth=True)
async def log_in(
    request: Request[Any, Any, Any], platform: Opened, data: JSONBody[LoginBody]
) -> Response[TokensAnswer]:
    """Start a session. The device cookie keeps strangers' failures from locking its owner out."""
    client = client_of(request, device=request.cookies.get(DEVICE_COOKIE))
    offered = Credentials(data.password, code=data.code, recovery_code=data.recovery_code)
    logged_in = await platform.log_in(data.tenant, data.name, offered, client)
    cookie = Cookie(
        DEVICE_COOKIE,
        value=logged_in.device,
        max_age=_DEVICE_SECONDS,
        path="/v1/sessions",
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )
    return Response(_told(logged_in.tokens), cookies=[cookie])


@post("/refresh", exclude_from_auth=True)
async def refresh(
    request: Request[Any, Any, Any], platform: Opened, data: JSONBody[RefreshBody]
) -> TokensAnswer:
    """The next pair of tokens; a token that comes back later than it may ends the session."""
    return _told(await platform.refresh(data.refresh_token, client_of(request)))


@get("/", **own_only())
async def my_sessions(request: Asking, acme: Acme) -> Sequence[Session]:
    """Where I am logged in, the last used first."""
    return await acme.sessions.list(person_of(request))


@delete("/", **own_only())
async def end_others(request: Asking, acme: Acme) -> None:
    """End all my sessions but this one."""
    await acme.sessions.revoke_all(person_of(request), but=request.auth.session_id)


@delete("/current", **own_only())
async def log_out(request: Asking, acme: Acme) -> None:
    """End this session."""
    await acme.sessions.log_out(bearer_token(request.headers))


@delete("/{session_id:uuid}", **own_only())
async def end_one(request: Asking, acme: Acme, session_id: Id) -> None:
    """End one of my sessions."""
    await acme.sessions.revoke(session_id, of=person_of(request))


@get("/of/{user_id:uuid}", **requires("sessions:read"))
async def sessions_of(acme: Acme, user_id: Id) -> Sequence[Session]:
    """Where a person is logged in."""
    return await acme.sessions.list(user_id)


@delete("/of/{user_id:uuid}", **requires("sessions:revoke"))
async def end_all_of(acme: Acme, user_id: Id) -> None:
    """End all sessions of a person."""
    await acme.sessions.revoke_all(user_id)


def _told(tokens: Tokens) -> TokensAnswer:
    return TokensAnswer(
        session_id=tokens.session_id,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        access_expires_at=tokens.access_expires_at,
        expires_at=tokens.expires_at,
    )


router = Router(
    "/v1/sessions",
    request_max_body_size=STRANGERS_BODY,
    route_handlers=[
        log_in,
        refresh,
        my_sessions,
        end_others,
        log_out,
        end_one,
        sessions_of,
        end_all_of,
    ],
    dependencies=DEPENDENCIES,
    tags=["sessions"],
)
