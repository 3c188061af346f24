"""Lists in pages: what a caller says of where to go on, and what it is told.

A place is handed out as text that only the same list of the same tenant takes back (see
`tenancy/cursors.py`), so nobody goes on from a place that was not an end of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar.params import QueryParameter

from neolayer.tenancy.cursors import Pages

After = Annotated[str | None, QueryParameter(max_length=1000)]
PageSize = Annotated[int, QueryParameter(ge=1, le=1000)]


def begin(pages: Pages, after: str | None) -> str:
    """The place to begin behind; empty at the first page. Raises ForgedCursor."""
    return "" if after is None else pages.read(after).decode()


def end(pages: Pages, places: Sequence[str], limit: int) -> str | None:
    """Where a page of `limit` ends; None where it is not full, so that nothing follows."""
    return pages.write(places[-1].encode()) if len(places) == limit else None
