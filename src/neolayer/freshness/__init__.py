"""Which position a derived store reflects, and waiting for one."""

from neolayer.freshness.log_end import NotWritten, wait_for_log
from neolayer.freshness.positions import (
    ALL_STORES,
    AsOf,
    NotFresh,
    Store,
    position_of,
    stores_at,
    wait_for,
)
from neolayer.freshness.put_back import PutBack
from neolayer.freshness.streams import Stream, streams_at

__all__ = [
    "ALL_STORES",
    "AsOf",
    "NotFresh",
    "NotWritten",
    "PutBack",
    "Store",
    "Stream",
    "position_of",
    "stores_at",
    "streams_at",
    "wait_for",
    "wait_for_log",
]
