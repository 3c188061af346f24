"""One relay works in a folder, also in one that was removed under it and made anew."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from neolayer.errors import RelayError
from neolayer.relay.folder import hold_folder


async def is_free(folder: Path) -> bool:
    """Whether another relay could work there now."""
    stop = asyncio.Event()
    stop.set()
    async with hold_folder(folder, stop) as held:
        return held is not None


async def test_C11_a_folder_that_is_made_anew_is_locked_again(tmp_path: Path) -> None:
    """Removed, or put aside: whoever held it has it again, and keeps the others out."""
    folder = tmp_path / "relay"
    async with hold_folder(folder, asyncio.Event()) as held:
        assert held is not None and held.is_held
        assert not await is_free(folder)
        for take_away in (shutil.rmtree, lambda one: one.rename(tmp_path / "aside")):
            take_away(folder)
            assert not held.is_held
            held.hold_on()
            assert held.is_held and not await is_free(folder)
        held.hold_on()
        assert held.is_held
    assert await is_free(folder)


async def test_C11_a_relay_whose_folder_another_one_has_now_waits(tmp_path: Path) -> None:
    """Of two relays one works; it is said which waits, and it goes on when the other ends."""
    folder = tmp_path / "relay"
    async with hold_folder(folder, asyncio.Event()) as first:
        assert first is not None
        shutil.rmtree(folder)
        async with hold_folder(folder, asyncio.Event()) as second:
            assert second is not None
            for _ in range(2):
                with pytest.raises(RelayError, match="another relay works in"):
                    first.hold_on()
            assert not first.is_held and second.is_held
        first.hold_on()
        assert first.is_held
