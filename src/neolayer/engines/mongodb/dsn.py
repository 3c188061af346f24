"""MongoDB DSNs, read without loading the driver."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable

_SCHEMES = ("mongodb", "mongodb+srv")


def parse_dsn(dsn: str) -> MongoEndpoint:
    """`mongodb://user:password@host:port/database` as an endpoint.

    Raises EngineUnavailable, also where the driver is not installed.
    """
    try:
        url = urlsplit(dsn)
        hosts = url.netloc.rpartition("@")[2]
        if url.scheme not in _SCHEMES or not hosts:
            raise ValueError
    except ValueError:
        # urlsplit's words may quote the password: `from None`.
        raise EngineUnavailable(
            "mongodb",
            "the DSN cannot be read",
            hint="write mongodb://user:password@host:port/database, mongodb+srv:// for a cluster",
        ) from None
    if find_spec("pymongo") is None:
        raise EngineUnavailable(
            "mongodb", "its driver is not installed", hint="pip install 'neolayer[mongodb]'"
        )
    database = unquote(url.path.strip("/")) or "neolayer"
    return MongoEndpoint(Level.REAL, dsn, database, f"{url.scheme}://{hosts}/{database}")
