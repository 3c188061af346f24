"""Importing Ethereum's libraries without what one of them does to the whole process.

`py_ecc`, below `eth_account` and `eth_keyfile`, raises the interpreter's recursion limit to 100,000
when it is imported. Parsers written in C (json, BSON) count on that limit: input nested deep enough
then overflows the stack and kills the process, where it would have raised RecursionError.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def recursion_limit_kept() -> Generator[None]:
    """Put the limit back to what it was at the beginning of the block."""
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
