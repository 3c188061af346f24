"""Settings that hold for one request, on a link that lives longer.

On a server, settings in the URL belong to the request and `SET` belongs to the session. A link
knows only `SET`, so each request's settings are laid over the session's and taken off again when
the next request wants others. Clients repeat the same settings in every request, so as a rule
there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from neolayer.engines.embedded.clickhouse_server.engine import Link

_CHANGED = b"SELECT name, value FROM system.settings WHERE changed AND name IN (%b)"


def quote_text(value: str) -> str:
    """A ClickHouse string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(name: str) -> str:
    """A ClickHouse identifier, quoted."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def set_statement(settings: Mapping[str, str]) -> bytes:
    """`SET a = '1', b = '2'`. The engine converts the texts; unknown names fail with 115."""
    pairs = ", ".join(f"{name} = {quote_text(value)}" for name, value in settings.items())
    return f"SET {pairs}".encode()


class Overlay:
    """The settings and the database now laid over a link's own. Methods block."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._laid: dict[str, str] = {}
        self._own: dict[str, str] = {}
        self._database: str | None = None
        self._own_database: str | None = None

    def fits(self, settings: Mapping[str, str], database: str | None) -> bool:
        """Whether exactly these hold already, as they do from a client's second request on."""
        return self._laid == settings and self._database == database

    def lay(self, settings: Mapping[str, str], database: str | None) -> None:
        """Make exactly these hold, over the link's own. On a fault nothing new holds."""
        stale = [name for name in self._laid if name not in settings]
        fresh = {name: v for name, v in settings.items() if self._laid.get(name) != v}
        self._restore(stale)
        if fresh:
            self._remember(fresh)
            self._link.run(set_statement(fresh))
            self._laid.update(fresh)
        if database != self._database:
            self._use(database)

    def lift(self) -> None:
        """Take everything off, so that what runs next changes the link's own state."""
        self.lay({}, None)
        self._own_database = None

    def _remember(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self._laid]
        if not unknown:
            return
        listed = ", ".join(quote_text(name) for name in unknown)
        found = self._link.run(_CHANGED % listed.encode(), output="TabSeparatedRaw").body.decode()
        for name in unknown:
            self._own.pop(name, None)
        for line in found.splitlines():
            name, _, value = line.partition("\t")
            self._own[name] = value

    def _restore(self, names: list[str]) -> None:
        if not names:
            return
        pairs = (
            f"{name} = {quote_text(self._own[name])}" if name in self._own else f"{name} = DEFAULT"
            for name in names
        )
        self._link.run(f"SET {', '.join(pairs)}".encode())
        for name in names:
            del self._laid[name]

    def _use(self, database: str | None) -> None:
        if self._own_database is None:
            found = self._link.run(b"SELECT currentDatabase()", output="TabSeparatedRaw").body
            self._own_database = found.decode().strip("\n")
        self._link.run(f"USE {quote_name(database or self._own_database)}".encode())
        self._database = database
