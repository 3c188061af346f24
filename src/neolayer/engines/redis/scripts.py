"""Lua scripts that ship with the package, run by their digest.

A server that does not know a script yet (new, restarted, failed over) says NOSCRIPT; it is then
sent the text once. No script makes key names: they come as KEYS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError


@dataclass(frozen=True, slots=True)
class Script:
    """One script's text and the SHA-1 by which servers know it."""

    text: str
    digest: str

    async def run(
        self, client: Redis, keys: Sequence[bytes | str], arguments: Sequence[bytes | int | str]
    ) -> Any:
        """The script's answer. Raises redis.exceptions.RedisError."""
        try:
            return await client.evalsha(self.digest, len(keys), *keys, *arguments)  # pyright: ignore
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *arguments)  # pyright: ignore


def load_script(module: str, file: str) -> Script:
    """Read `file` from the folder of a module (its `__name__`)."""
    text = (resources.files(module.rpartition(".")[0]) / file).read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
