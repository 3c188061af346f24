"""The root of the command tree, and what all commands have in common."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import App, CycloptsError, Group, Parameter

from neolayer import __version__
from neolayer.errors import NeolayerError, visible
from neolayer.nuls import HoldsNul
from neolayer.settings import DEFAULT_DATA_DIR, Settings, forget_libpq_variables, load_settings
from neolayer.telemetry import mask

app = App(
    name="neolayer",
    help="The whole data layer of a multi-tenant blockchain service, run as one system.",
    version=__version__,
    default_parameter=Parameter(negative=()),
)
# Where each command is made; only that module is loaded, so that a command starts quickly.
COMMANDS = {
    "up": "layer",
    "down": "layer",
    "status": "status",
    "doctor": "doctor",
    "demo": "demo",
    "ingest": "ingest",
    "query": "query",
    "relay": "relay",
    "reconcile": "reconcile",
    "where": "where",
    "migrate": "migrate",
    "audit": "audit",
    "projections": "projections",
    "tenants": "tenants",
    "attestations": "attestations",
    "sealed": "sealed",
    "computations": "computations",
    "config": "config",
    "keys": "keys",
    "users": "users",
    "wallets": "wallets",
    "roles": "roles",
    "services": "services",
    "webhooks": "webhooks",
    "sessions": "sessions",
    "events": "events",
}
# What a write to stdout can meet beside a reader that has gone.
_STDOUT_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_LONG_WORD = re.compile(r"\S{300,}")
_TRACEBACK, _DEFECT = "NEOLAYER_TRACEBACK", 70
_FAILED, _NO_ANSWER = 1, 3
_EVERYWHERE = Group("For every command", sort_key=100)


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the user said beside the verb. `chosen`: the data directory is not the default."""

    settings: Settings
    config: Path | None
    chosen: bool


_invocation: ContextVar[Invocation] = ContextVar("invocation")


def invocation() -> Invocation:
    """The settings of the running command."""
    return _invocation.get()


@app.meta.default
def _dispatch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    data_dir: Annotated[
        Path | None,
        Parameter(help=f"Where embedded engines live (default: {DEFAULT_DATA_DIR})."),
    ] = None,
    config: Annotated[
        Path | None, Parameter(help="Configuration file (default: neolayer.toml, if there is one).")
    ] = None,
) -> Any:
    settings = load_settings(config, data_dir=data_dir)
    default = Path(DEFAULT_DATA_DIR).absolute()
    _invocation.set(Invocation(settings, config, chosen=settings.data_dir != default))
    _refuse_unwritable(tokens)
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    result = command(*bound.args, **bound.kwargs)
    if asyncio.iscoroutine(result):
        return asyncio.run(cast("Any", result))
    return result


def _refuse_unwritable(tokens: Sequence[str]) -> None:
    """No engine holds the character NUL. Raises HoldsNul."""
    for before, token in zip(("", *tokens), tokens, strict=False):
        if "\0" in token:
            option = next((one for one in (token, before) if one.startswith("--")), "")
            name = option.partition("=")[0] if len(option) > 2 else "an argument"
            raise HoldsNul(name)


app.meta.group_parameters = _EVERYWHERE
app.meta.suppress_keyboard_interrupt = False  # `run` answers it


def run(arguments: list[str], *, on_loaded: Callable[[], None] = lambda: None) -> int:
    """Run one command line and return the exit code: 0, or what the error says.

    `on_loaded` is called when what the command needs is imported, before it does anything.
    """
    try:
        _open_closed_streams()
        forget_libpq_variables()
        _register(arguments)
        on_loaded()
        result = app.meta(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except _NoAnswer as exc:
        code = _told(exc.reason)
        return _NO_ANSWER if code == _FAILED else code
    except (Exception, KeyboardInterrupt) as exc:  # nobody is helped by a traceback
        return _told(exc)
    return result if isinstance(result, int) else 0


class _NoAnswer(Exception):
    def __init__(self, reason: Exception) -> None:
        self.reason = reason


@contextmanager
def answering() -> Generator[None]:
    """The work of a command whose code 1 is an answer, such as `differs`: an error that would give
    1 too, and keeps it from answering, gives 3."""
    try:
        yield
    except Exception as exc:  # whatever it is: `run` tells it, with the other code
        raise _NoAnswer(exc) from exc


def _told(exc: BaseException) -> int:
    """Say an error on stderr and give its code."""
    match exc:
        case CycloptsError():
            return fail(_sentence(exc), hint=_where_to_look(exc), code=2)
        case NeolayerError():
            return fail(exc.message, hint=exc.hint, code=exc.exit_code)
        case KeyboardInterrupt():
            number = exc.args[0] if exc.args else signal.SIGINT  # a bare one is Ctrl-C
            return fail("interrupted", code=128 + number)
        case BrokenPipeError():
            sys.stderr.close()
            return 141
        case UnicodeEncodeError():
            text = visible(exc.object[:80])
            return fail(f"'{text}' cannot be written as {exc.encoding}", code=2)
        case OSError() if exc.filename is not None or exc.errno in _STDOUT_FAILED:
            if exc.filename is None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to be written
            return fail(f"{exc.filename or 'stdout'}: {exc.strerror}", code=_FAILED)
        case _:
            return unforeseen(exc)


def _open_closed_streams() -> None:
    """A stream that the caller closed leads nowhere, rather than to the next file we open."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


def _sentence(exc: CycloptsError) -> str:
    """What cyclopts says, with the parameter's name, also where it has no option."""
    said, argument = f"{exc}", exc.argument
    if argument is None:
        return said
    name = argument.names[0] if argument.names else argument.name
    return said if name in said else f"{name}: {said}"


def unforeseen(exc: BaseException) -> int:
    """What no room translated: an engine's refusal in its own words, else a defect of ours."""
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(exc)
    said = next((line for line in str(exc).splitlines() if line.strip()), "")
    if type(exc).__module__.partition(".")[0] == "psycopg":
        return fail(f"PostgreSQL: {said}", code=_FAILED)
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return fail(
        f"a defect of neolayer: {type(exc).__name__}: {said} ({place})",
        hint=f"{_TRACEBACK}=1 shows where it comes from; please report it",
        code=_DEFECT,
    )


def _where_to_look(exc: CycloptsError) -> str:
    chain = exc.command_chain or ()
    if chain and chain[0] in COMMANDS:
        return f"neolayer {' '.join(chain)} --help shows what it takes."
    return "neolayer --help lists the commands."


def fail(message: str, *, code: int, hint: str | None = None) -> int:
    """Say why on stderr, secrets masked, and give the exit code back."""
    print(f"error: {_legible(mask(message))}", file=sys.stderr)
    if hint:
        print(f"hint: {_legible(mask(hint))}", file=sys.stderr)
    return code


def _legible(text: str) -> str:
    """The text's lines, words of any length cut to one that can be read, and what a terminal would
    obey as escapes: engines say what others wrote."""
    cut = _LONG_WORD.sub(lambda word: f"{word[0][:60]}...", text)
    return "\n".join(map(visible, cut.split("\n")))


def _register(arguments: list[str]) -> None:
    """Import the module of the command that is called, or all where that is not plain to see."""
    called = [COMMANDS[word] for word in arguments if word in COMMANDS]
    everything = () if "--version" in arguments else COMMANDS.values()
    for module in dict.fromkeys(called[:1] or everything):
        import_module(f"neolayer.cli.{module}")
