"""The whole data layer of a multi-tenant blockchain service, run as one system."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neolayer.face import Platform

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(  # noqa: A001  the verb users look for
    config: str | Path | None = None, *, data_dir: str | Path | None = None
) -> AbstractAsyncContextManager[Platform]:
    """A running layer as one object: see `neolayer.face.open_platform`, imported when called."""
    from neolayer.face import open_platform

    return open_platform(config, data_dir=data_dir)
