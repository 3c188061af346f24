"""Object storage behind the face all engines share: S3, or a local folder with the same verbs."""

from __future__ import annotations

from importlib.metadata import version
from typing import TypeAlias

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from neolayer.engines.endpoints import ObjectsEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.probe import probe
from neolayer.errors import EngineUnavailable

Store: TypeAlias = LocalStore | S3Store


def open_store(endpoint: ObjectsEndpoint) -> Store:
    """The store of an endpoint; S3 takes its credentials from AWS_* or the machine's role.

    Raises EngineUnavailable.
    """
    try:
        if endpoint.folder is not None:
            return LocalStore(endpoint.folder, mkdir=True)
        bucket = endpoint.url.removeprefix("s3://").partition("/")[0]
        if not endpoint.url.startswith("s3://") or not bucket:
            raise EngineUnavailable(
                "objects", "the URL cannot be read", hint="write objects.url as s3://bucket/prefix"
            )
        return S3Store.from_url(endpoint.url)
    except (BaseError, OSError) as exc:
        raise explain(exc, endpoint) from exc


def explain(exc: BaseException, endpoint: ObjectsEndpoint) -> EngineUnavailable:
    """The one sentence for a call that failed: obstore's first line, without its debug dump."""
    reason = (str(exc).strip().splitlines() or ["no reason given"])[0]
    return EngineUnavailable("objects", f"{endpoint.address} cannot be used: {reason[:300]}")


class ObjectsEngine:
    """One bucket or folder."""

    def __init__(self, endpoint: ObjectsEndpoint) -> None:
        self._endpoint = endpoint
        self._store: Store | None = None

    @property
    def name(self) -> str:
        return "objects"

    async def open(self) -> None:
        self._store = self._store or open_store(self._endpoint)

    async def close(self) -> None:
        self._store = None

    async def ping(self) -> None:
        """List the top level: cheap on S3, and it fails where key or bucket is wrong."""
        store = self._store or open_store(self._endpoint)
        try:
            await store.list_with_delimiter_async()  # pyright: ignore[reportUnknownMemberType]
        except (BaseError, OSError) as exc:
            raise explain(exc, self._endpoint) from exc

    async def version(self) -> str:
        kind = "local folder" if self._endpoint.folder is not None else "s3"
        return f"{kind} (obstore {version('obstore')})"

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
