"""Two providers while a layer moves from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

from neolayer.keys.errors import MissingKey
from neolayer.keys.names import KeyName
from neolayer.keys.provider import KeyProvider, WrappedKey


@dataclass(frozen=True, slots=True)
class SuccessiveKeys:
    """`provider` seals; `earlier` opens what it has sealed before."""

    provider: KeyProvider
    earlier: KeyProvider

    async def wrap(self, data_key: bytes) -> WrappedKey:
        return await self.provider.wrap(data_key)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        try:
            return await self.provider.unwrap(wrapped)
        except MissingKey:
            return await self.earlier.unwrap(wrapped)

    async def current(self) -> KeyName:
        return await self.provider.current()

    async def versions(self) -> tuple[KeyName, ...]:
        return (*await self.earlier.versions(), *await self.provider.versions())

    async def rotate(self) -> KeyName:
        return await self.provider.rotate()

    async def relock(self) -> int:
        return await self.provider.relock()

    async def health(self) -> None:
        await self.earlier.health()
        await self.provider.health()
