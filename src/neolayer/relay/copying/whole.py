"""Copy all tables of one sink: it is new, was emptied, or missed changes the log has let go of.

The copy bears the version of its first snapshot. From there on the log is kept, and read when all
is copied: what a later snapshot had already comes once more and changes nothing, what it lacked
because it was deleted is deleted. Only then is the checkpoint stored, at that version.

A copy that did not end is gone on with while all of this is so: the log still reaches back to its
version, the tables are the same, and the store still has the note that it left there. A table of
which other columns or another key are copied by now, or elsewhere, is begun anew. A stream is told
all of them anew: what it was told bears the one version that says how far it has come.
"""

from __future__ import annotations

from neolayer.relay.copying.progress import Wanted
from neolayer.relay.copying.tables import Tables, Way, copy_tables
from neolayer.relay.sinks.sink import CopyLost, Resendable


class WholeCopy:
    """One copy of a sink, from `resume` or `begin` to `end`."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._sink = way.sink
        self._wanted: list[Wanted] = []
        self.version: int | None = None

    async def resume(self, *, reaches_back_to: int) -> bool:
        """Go on with the one that did not end; whether there is one that is of use."""
        found = await self._way.progress.copy_of(self._sink.name)
        begun = [one.version for one in found if one.version is not None]
        if not begun or frozenset(one.table for one in found) != self._sink.tables:
            return False
        of_use = [one.under(self._sink.shape(one.table)).version for one in found]
        kept = [version for version in of_use if version is not None]
        if not kept or (isinstance(self._sink, Resendable) and len(kept) < len(begun)):
            return False
        version = min(begun)
        if version < reaches_back_to or await self._sink.copy_began() != version:
            return False
        self._wanted, self.version = found, version
        return True

    async def begin(self) -> None:
        """Forget what is known of another, and start."""
        await self._way.progress.begin_copy(self._sink.name, self._sink.tables)
        self._wanted = await self._way.progress.copy_of(self._sink.name)

    async def run(self, tables: Tables) -> int | None:
        """Copy what is left, and store the checkpoint; returns it, or None where the way was
        closed before the end.

        Raises CopyLost where the store was emptied meanwhile.
        """
        if self.version is None:
            await self._sink.begin_copy(tables.version)
            self.version = tables.version
        if not await copy_tables(self._way, self._wanted, tables, version=self.version):
            return None
        if await self._sink.copy_began() != self.version:
            raise CopyLost(self._sink.name)
        await self._sink.reflect(self.version)
        return self.version

    async def end(self) -> None:
        """Nothing of it needs to be known any more."""
        await self._way.progress.end_copy(self._sink.name, self.version or 0)
