"""The opened layer behind the routes, and who asks it: what handlers are given.

The layer is opened by the first request that needs it, so that the server starts, and says that it
is not ready, while PostgreSQL is away or not migrated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from hmac import compare_digest
from time import monotonic
from typing import Any
from uuid import UUID

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import MutableScopeHeaders, State
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.params import SkipValidation
from litestar.types import Message, Scope

from neolayer.api.callers import bearer_token, is_by_https, source_address, user_agent
from neolayer.api.requests import check_headers
from neolayer.errors import AccessDenied, LimitExceeded
from neolayer.face import Platform, TenantView
from neolayer.identity import Access, Client, UnknownToken
from neolayer.settings import ServeSettings
from neolayer.telemetry import log_warning
from neolayer.tenancy import Principal, TenantNotFound
from neolayer.tenancy.database import Written

# In a handler's `opt`: which permission it asks for, for the document and the tests.
PERMISSION = "permission"
# In the answer to a request that may have written: what a store must reflect to have all of it.
POSITION_HEADER = "Neolayer-Position"
_READING = ("GET", "HEAD", "OPTIONS")
_WRITTEN = "written"
_TELL_AGAIN_S = 3600.0
Asking = Request[Principal, Access, State]


class Layer:
    """One platform for all requests, opened when it is first needed and closed with the server."""

    def __init__(
        self,
        opening: Callable[[], AbstractAsyncContextManager[Platform]],
        settings: ServeSettings,
    ) -> None:
        self.proxy_depth = settings.proxy_depth
        self.https = settings.https
        self.body_seconds = settings.body_seconds
        self._operator_token = settings.operator_token
        self._opening = opening
        self._stack = AsyncExitStack()
        self._platform: Platform | None = None
        self._lock = asyncio.Lock()
        self._tell_again_at = 0.0

    async def platform(self) -> Platform:
        """The platform. Raises EngineUnavailable or MigrationError; the next request asks again."""
        async with self._lock:
            if self._platform is None:
                self._platform = await self._stack.enter_async_context(self._opening())
            return self._platform

    def is_operators(self, token: str) -> bool:
        """Whether this is the operators' token; never where none is set."""
        known = self._operator_token
        if known is None:
            return False
        return compare_digest(token.encode(), known.get_secret_value().encode())

    def tell_of_proxies(self) -> None:
        """Log, once an hour, that somebody's proxy may stand in front of us unknown."""
        now = monotonic()
        if now >= self._tell_again_at:
            self._tell_again_at = now + _TELL_AGAIN_S
            log_warning(
                "X-Forwarded-For arrives while serve.proxy_depth is 0: behind a proxy everybody"
                " counts as one address, and a stranger's flood stops all logins",
                setting="serve.proxy_depth",
            )

    async def close(self) -> None:
        """Release everything, in reverse order."""
        await self._stack.aclose()


def layer_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Layer:
    """The layer of the application that serves this connection."""
    return connection.app.state["layer"]


def client_of(connection: ASGIConnection[Any, Any, Any, Any], device: str | None = None) -> Client:
    """Where the request comes from. Raises InvalidInput."""
    peer = connection.client.host if connection.client else None
    depth = layer_of(connection).proxy_depth
    forwarded = connection.headers.getall("x-forwarded-for", [])
    if forwarded and not depth:
        layer_of(connection).tell_of_proxies()
    return Client(
        ip=source_address(forwarded, peer, proxy_depth=depth),
        user_agent=user_agent(connection.headers),
        device=device,
    )


def is_secure(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    """Whether a cookie of this answer may travel by HTTPS only."""
    layer = layer_of(connection)
    forwarded = connection.headers.getall("x-forwarded-proto", [])
    return layer.https or is_by_https(
        connection.scope["scheme"], forwarded, proxy_depth=layer.proxy_depth
    )


class TooManyRequests(LimitExceeded):
    """The tenant's requests of this minute are used up."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__(hint="GET /v1/tenant/limits")
        self.retry_after = retry_after


class Authentication(AbstractAuthenticationMiddleware):
    """Binds a request to the tenant and principal of its token, and counts it for the tenant."""

    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        check_headers(connection)
        token = bearer_token(connection.headers)
        layer = layer_of(connection)
        if layer.is_operators(token):
            return AuthenticationResult(user=Principal.operator("api"), auth=None)
        platform = await layer.platform()
        ip = client_of(connection).ip
        if not platform.access.is_familiar(token):
            platform.strangers.require_patience(ip)
        try:
            access = await platform.access.check(token, ip_address=ip)
        except UnknownToken:
            await platform.strangers.count_unknown(ip)
            raise
        await _count(platform, access.tenant)
        return AuthenticationResult(user=access.principal, auth=access)


async def _count(platform: Platform, tenant: UUID) -> None:
    """Take one of the tenant's requests. Raises TooManyRequests."""
    try:
        taken = await platform.requests.take(tenant)
    except TenantNotFound:  # deleted since the token was looked up
        raise UnknownToken from None
    if not taken.allowed:
        raise TooManyRequests(taken.retry_after)


def requires(permission: str) -> dict[str, Any]:
    """Keywords of a route that asks for a permission."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        _access(connection).require(permission)

    return {"guards": [guard], PERMISSION: permission}


def own_only() -> dict[str, Any]:
    """Keywords of a route on which people reach what is theirs, and services nothing."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if _access(connection).principal.user_id is None:
            raise AccessDenied("this is for people, not for services")

    return {"guards": [guard], PERMISSION: "one's own"}


def operators_only() -> dict[str, Any]:
    """Keywords of a route for those who run the layer."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if connection.auth is not None:
            raise AccessDenied("this is for operators", hint="neolayer tenants --help")

    return {"guards": [guard], PERMISSION: "operators"}


def _access(connection: ASGIConnection[Any, Any, Any, Any]) -> Access:
    access: Access | None = connection.auth
    if access is None:
        raise AccessDenied("an operator's token is of no tenant")
    return access


def person_of(request: Asking) -> UUID:
    """Who asks, on a route that lets people in only."""
    user_id = request.user.user_id
    assert user_id is not None  # own_only lets nobody else in
    return user_id


async def provide_platform(request: Asking) -> Platform:
    """The platform, for routes before authentication."""
    return await layer_of(request).platform()


async def provide_tenant(request: Asking) -> TenantView:
    """The tenant of the token, acting as whoever bears it."""
    platform = await layer_of(request).platform()
    view = platform.view(request.auth.tenant, by=request.auth.principal)
    if request.method not in _READING:
        view.scope.written.is_wanted = True
        request.scope["state"][_WRITTEN] = view.scope.written
    return view


async def tell_position(message: Message, scope: Scope) -> None:
    """Say in a header how far the request has written, before its answer is sent.

    A refusal says nothing: what it wrote is the audit's, and an absent thing and somebody else's
    are to be answered alike.
    """
    written: Written | None = scope["state"].get(_WRITTEN)
    if message["type"] != "http.response.start" or message["status"] >= 400:
        return
    if written and written.position:
        headers = MutableScopeHeaders.from_message(message)
        headers[POSITION_HEADER] = str(written.position)


# What handlers declare: `acme: Acme`, `platform: Opened`.
# They come from us alone, so nothing about them is to be validated.
Acme = NamedDependency[SkipValidation[TenantView]]
Opened = NamedDependency[SkipValidation[Platform]]
DEPENDENCIES = {
    "platform": Provide(provide_platform),
    "acme": Provide(provide_tenant),
}
