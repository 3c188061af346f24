"""Every error the layer raises on purpose.

One tree, one root. The docstring of a class is its default message; facts a caller may want to act
on are fields. `hint` names the way out and is printed below the message by the command line.
"""

from __future__ import annotations


def visible(text: str) -> str:
    """The text with whatever a terminal would obey, and what no encoding can write, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class NeolayerError(Exception):
    """Something in the data layer went wrong."""

    exit_code = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        super().__init__(self.message)


class SettingsError(NeolayerError):
    """The configuration cannot be used."""

    exit_code = 2


class DataDirectoryError(NeolayerError):
    """The data directory cannot be used."""


class AlreadyRunning(DataDirectoryError):
    """A layer is already running on this data directory."""


class NotRunning(DataDirectoryError):
    """No layer is running on this data directory."""

    exit_code = 3


class EngineError(NeolayerError):
    """An engine refused or failed."""

    def __init__(self, engine: str, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(f"{engine}: {message}" if message else None, hint=hint)
        self.engine = engine


class EngineUnavailable(EngineError):
    """An engine does not answer."""


class EngineFull(EngineError):
    """An engine has no room left on its disk."""


class EngineTooOld(EngineError):
    """An engine's version is not supported."""


class NotSupported(EngineError):
    """This engine cannot do what was asked."""


class MigrationError(NeolayerError):
    """A migration could not be applied."""


class QueryError(NeolayerError):
    """A query was refused."""


class ChainError(NeolayerError):
    """Chain data could not be taken in."""

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        # Names of files and words of nodes stand in these messages: both are foreign.
        super().__init__(None if message is None else visible(message), hint=hint)


class BadBlock(ChainError):
    """A block is not what it claims to be."""

    def __init__(self, reason: str, *, origin: str, block: str | int | None = None) -> None:
        where = origin if block is None else f"{origin}: block {block}"
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.origin = origin
        self.block = block


class ForeignBlock(BadBlock):
    """A block belongs to another network."""


class SourceError(ChainError):
    """A source of blocks could not be read."""


class RelayError(NeolayerError):
    """The relay cannot go on."""


class Unanswered(NeolayerError):
    """What was waited for was given up, though nobody wished it."""


class InvalidInput(NeolayerError):
    """A value cannot be taken."""

    exit_code = 2


class Unauthenticated(NeolayerError):
    """Who is asking is not known."""


class AccessDenied(NeolayerError):
    """Whoever is asking may not do this."""


class NotFound(NeolayerError):
    """There is no such thing, or it is not the caller's to see."""


class Conflict(NeolayerError):
    """What was asked does not fit with what is stored."""


class LimitExceeded(NeolayerError):
    """A tenant's limit is reached."""
