"""The command `neolayer`, also as `python -m neolayer`.

What a command loads lives as long as it does, so the garbage collector begins with the work. Until
then Ctrl-C ends the process at once: an exception would meet whatever is being imported.
"""

import contextlib
import gc
import os
import signal


def main() -> None:
    """Run one command and exit with its code."""
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not under `nohup`
        signal.signal(signal.SIGINT, _end)
    from neolayer.cli import main as command

    command(on_loaded=_begin)


def _begin() -> None:
    gc.freeze()
    gc.enable()
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which asyncio looks for


def _end(number: int, _: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"error: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
