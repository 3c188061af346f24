"""How keys are called: an id that a set of keys keeps for ever, and a version that rises."""

from __future__ import annotations

import re
from dataclasses import dataclass

from neolayer.keys.errors import UnreadableSeal

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class KeyName:
    """A key-encryption key, as `id/version`. A name is no secret: it stands beside every row."""

    id: str
    version: int

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or not _VERSION.fullmatch(str(self.version)):
            raise UnreadableSeal("a key's name is id/version, such as file-3f9a1c2b/1")

    def __str__(self) -> str:
        return f"{self.id}/{self.version}"

    @classmethod
    def of(cls, key_id: str, version: str) -> KeyName:
        """The name of its two written parts. Raises UnreadableSeal."""
        if not _VERSION.fullmatch(version):
            raise UnreadableSeal("a key's version is a whole number from 1")
        return cls(key_id, int(version))
