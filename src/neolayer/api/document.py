"""What is alike on every route of the OpenAPI document, said once.

The framework describes what each handler takes and gives; here come the refusals, which are problem
documents whoever refuses, who need not say who they are, and which permission is asked for. Bodies
are described by who checks them: the framework leaves out what the items of a list are held to, and
that no other fields may be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import HTTPRoute
from litestar.serialization import encode_json
from msgspec.json import schema_components

from neolayer.api.layer import PERMISSION
from neolayer.api.problems import MEDIA_TYPE

REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_WAITING = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
    },
    "description": "Why a request was refused (RFC 9457).",
}


class DocumentPlugin(JsonRenderPlugin):
    """The document as JSON, made whole when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(path="/openapi.json")
        self._whole: dict[str, Any] | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document, byte for byte the same each time."""
        if self._whole is None:
            self._whole = whole(openapi_schema, request.app)
        return encode_json(self._whole)


def whole(described: dict[str, Any], app: Litestar) -> dict[str, Any]:
    """The framework's description with refusals, openness and permissions."""
    paths = {path: dict(item) for path, item in described["paths"].items()}
    for path, method, handler in _handlers(app):
        if path in paths and method in paths[path]:
            told = _told if path.startswith("/v1/") else _open
            paths[path][method] = told(paths[path][method], handler)
    components = dict(described["components"])
    schemas = components.get("schemas", {})
    components["schemas"] = {**schemas, **_bodies(app), "Problem": _PROBLEM}
    components["responses"] = {str(status.value): _refusal(status) for status in REFUSALS}
    return {**described, "paths": paths, "components": components}


def _bodies(app: Litestar) -> dict[str, Any]:
    fields = [handler.parsed_data_field for _, _, handler in _handlers(app)]
    bodies = dict.fromkeys(field.annotation for field in fields if field is not None)
    return schema_components(bodies, ref_template="#/components/schemas/{name}")[1]


def _handlers(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in handler.http_methods:
                    yield route.path_format, str(method).lower(), handler


def _told(operation: dict[str, Any], handler: HTTPRouteHandler) -> dict[str, Any]:
    given = {status: r for status, r in operation["responses"].items() if int(status) < 400}
    refused = {
        str(status.value): {"$ref": f"#/components/responses/{status.value}"} for status in REFUSALS
    }
    operation = {**operation, "responses": given | refused}
    if handler.opt.get("exclude_from_auth"):
        operation["security"] = []
    if permission := handler.opt.get(PERMISSION):
        operation["x-permission"] = permission
    return operation


def _open(operation: dict[str, Any], _: HTTPRouteHandler) -> dict[str, Any]:
    return {**operation, "security": []}


def _refusal(status: HTTPStatus) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    told: dict[str, Any] = {"description": status.description or status.phrase, "content": content}
    if status in _WAITING:
        told["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "seconds"}}
    return told
