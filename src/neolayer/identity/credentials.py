"""What somebody offers to get in, from where, and who they turn out to be; or the one refusal."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from neolayer.errors import Unauthenticated
from neolayer.identity.model import User


class BadCredentials(Unauthenticated):
    """The name, the password or the code is wrong."""

    def __init__(self, *, retry_after: timedelta | None = None) -> None:
        super().__init__()
        self.retry_after = retry_after  # where the source itself has failed too often


class CodeRequired(Unauthenticated):
    """The password is right; a code of the second factor is needed too."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody offers. A recovery code stands in for the code of a lost second factor."""

    password: str = field(repr=False)
    code: str | None = field(default=None, repr=False)
    recovery_code: str | None = field(default=None, repr=False)

    @property
    def second(self) -> bool:
        """Whether a second factor is offered."""
        return self.code is not None or self.recovery_code is not None


@dataclass(frozen=True, slots=True)
class Client:
    """Where a try comes from. `device` is what an earlier login from there was given."""

    ip: str
    user_agent: str | None = None
    device: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who it is. `device` is for the client to keep and to show next time; a new one each time the
    one shown was not known. `failed_before` are the failures since the last time somebody got in.
    """

    user: User
    device: str = field(repr=False)
    known_device: bool
    failed_before: int
    second_factor: bool
