"""What a session of the application begins with, whatever its role's own settings say.

A role may change its own settings for all sessions to come (ALTER ROLE neolayer_app SET ...), and
whoever has SQL as the application is that role. So what decides what a statement means, whom a
policy holds, how long a transaction lasts and whether a commit is on disk is sent along when a
connection is made, where it goes before a role's and a database's settings; and it is looked at
then, since a pooler in between may drop it. `neolayer doctor` names what a role was told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from neolayer.engines.postgres.connections import connect_as
from neolayer.engines.postgres.round_trip import RoundTripConnection
from neolayer.errors import EngineUnavailable
from neolayer.schema.provision import MEMBERS_LIMITS, TRANSACTION_TIMEOUT

C = TypeVar("C", bound=RoundTripConnection)
# As the server writes them.
SETTINGS: dict[str, str] = {
    "role": "none",
    "search_path": '"$user", public',
    "row_security": "on",
    "TimeZone": "UTC",
    "timezone_abbreviations": "Default",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "client_encoding": "UTF8",
    "client_min_messages": "notice",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "xmlbinary": "base64",
    "xmloption": "content",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "gin_fuzzy_search_limit": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "synchronous_commit": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "local_preload_libraries": "",
    **MEMBERS_LIMITS,
}


async def begin_session(kind: type[C], dsn: str, *, application_name: str) -> C:
    """A connection whose session begins with those of the settings that the server knows.

    Raises EngineUnavailable.
    """
    settings: Mapping[str, str] = SETTINGS
    while True:
        try:
            return await connect_as(
                kind,
                dsn,
                autocommit=True,
                application_name=application_name,
                prepare_threshold=None,
                settings=settings,
            )
        except EngineUnavailable as exc:
            fewer = _without_refused(settings, str(exc.__cause__))
            if fewer == settings:
                raise
            settings = fewer


def _without_refused(settings: Mapping[str, str], said: str) -> Mapping[str, str]:
    """What to ask for, where a server before PostgreSQL 17 knows no limit of transactions, or a
    pooler takes no settings: then those that the role has must be the same."""
    if "startup parameter" in said:
        return {}
    if TRANSACTION_TIMEOUT in said:
        return {name: value for name, value in settings.items() if name != TRANSACTION_TIMEOUT}
    return settings


def require_settings(found: Mapping[str, str | None]) -> None:
    """Raise EngineUnavailable where a new session has others; None: the server knows none."""
    for name, value in SETTINGS.items():
        if found[name] not in (value, None):
            raise EngineUnavailable(
                "postgres",
                f"sessions of the application begin with {name} = {found[name]!r}, not {value!r}",
                hint="let the pooler pass `options` on, or see neolayer doctor",
            )
