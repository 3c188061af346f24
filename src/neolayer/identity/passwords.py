"""Passwords: which ones are taken, and how they are kept.

The rules are those of NIST SP 800-63B-4: length counts and composition does not; what many people
use, or what anybody who knows the person would try first, is refused. Hashing is slow and large on
purpose, so it is done in threads, few at a time: more would only take memory from each other.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar, TypeVarTuple, Unpack

from neolayer.errors import InvalidInput, LimitExceeded
from neolayer.identity.common_passwords import is_common

SERVICE_NAME = "neolayer"
MIN_CHARACTERS = 15  # where the password is all that is asked for
MIN_CHARACTERS_WITH_MFA = 8
MAX_CHARACTERS = 256
_SHORTEST_TELLING_WORD = 4  # shorter parts of a name are in too many good passwords
Arguments = TypeVarTuple("Arguments")
Answer = TypeVar("Answer")


class WeakPassword(InvalidInput):
    """The password cannot be taken."""


class TooManyLogins(LimitExceeded):
    """More logins are waiting than can be answered in time; try again in a moment."""


def acceptable(password: str, *, mfa: bool, personal: Iterable[str]) -> str:
    """The password as it is hashed (NFC). Raises WeakPassword, which does not repeat it.

    `personal` are names that the password must not contain: of the person and of the service.
    """
    shortest = MIN_CHARACTERS_WITH_MFA if mfa else MIN_CHARACTERS
    if len(password) > MAX_CHARACTERS:
        raise WeakPassword(f"a password has at most {MAX_CHARACTERS} characters")
    text = unicodedata.normalize("NFC", password)
    if len(text) < shortest:
        raise WeakPassword(
            f"a password has at least {shortest} characters",
            hint="several words are long and easy to remember",
        )
    if _encoded(text) is None:
        raise WeakPassword("a password is text: this one holds half a character")
    if any(word in text.casefold() for word in _telling(personal)):
        raise WeakPassword("a password must not contain the user's, the domain's or our own name")
    if is_common(text):
        raise WeakPassword("too many people use this password, or one almost like it")
    return text


def personal_words(email: str, username: str, *service_names: str) -> tuple[str, ...]:
    """What somebody who knows the account would try first."""
    local, _, domain = email.partition("@")
    labels = domain.split(".")[:-1]
    return (local, username, *labels, *service_names)


def _telling(personal: Iterable[str]) -> set[str]:
    words: set[str] = set()
    for name in personal:
        for separator in "._-+":
            words.update(name.casefold().split(separator))
        words.add(name.casefold())
    return {word for word in words if len(word) >= _SHORTEST_TELLING_WORD}


def _encoded(password: str) -> bytes | None:
    """The bytes that are hashed; None for what can be nobody's password."""
    if len(password) > MAX_CHARACTERS:
        return None
    try:
        return unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password was right, and whether its hash should be made anew."""

    matches: bool
    outdated: bool = False


class PasswordHasher:
    """argon2id (RFC 9106) in a few threads. The parameters may be raised at any time: what was
    hashed with others is recognised, and hashed anew when its owner logs in.
    """

    def __init__(
        self,
        *,
        memory_kib: int = 19 * 1024,
        passes: int = 2,
        lanes: int = 1,
        at_once: int | None = None,
        waiting: int = 256,
    ) -> None:
        from argon2 import PasswordHasher as Argon2  # a command that hashes nothing need not wait

        if memory_kib < 19 * 1024 or passes < 2 or lanes < 1:
            raise InvalidInput("argon2id takes at least 19 MiB, two passes and one lane")
        self._argon2 = Argon2(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        self._threads = ThreadPoolExecutor(
            at_once or min(4, os.cpu_count() or 1), thread_name_prefix="argon2"
        )
        self._waiting, self._most_waiting = 0, waiting
        # A hash of nothing anybody can type, to be compared with where there is no user.
        salt, digest = (b64encode(os.urandom(n)).decode().rstrip("=") for n in (16, 32))
        costs = f"m={memory_kib},t={passes},p={lanes}"
        self._nobody = f"$argon2id$v=19${costs}${salt}${digest}"

    async def hash(self, password: str) -> str:
        """The hash to store. Raises WeakPassword on what is no text, TooManyLogins."""
        encoded = _encoded(password)
        if encoded is None:
            raise WeakPassword
        return await self._in_thread(self._argon2.hash, encoded)

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """Compare; without a stored hash the same work is done in vain. Raises TooManyLogins."""
        encoded = _encoded(password)
        known = stored is not None and encoded is not None
        return await self._in_thread(
            self._compare, stored if stored and known else self._nobody, encoded or b""
        )

    def _compare(self, stored: str, encoded: bytes) -> Verdict:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            self._argon2.verify(stored, encoded)
        except (VerificationError, InvalidHashError):
            return Verdict(matches=False)
        return Verdict(matches=True, outdated=self._argon2.check_needs_rehash(stored))

    async def _in_thread(
        self, work: Callable[[Unpack[Arguments]], Answer], *arguments: *Arguments
    ) -> Answer:
        if self._waiting >= self._most_waiting:
            raise TooManyLogins
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, work, *arguments)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the threads end; what they are at is finished."""
        self._threads.shutdown(wait=False)

    def __enter__(self) -> PasswordHasher:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self.close()
