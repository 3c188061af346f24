"""The command `neolayer`, also as `python -m neolayer`.

What a command loads lives as long as it does, so the garbage collector begins with the work.
"""

import gc


def main() -> None:
    """Run one command and exit with its code."""
    gc.disable()
    from neolayer.cli import main as command

    command()


if __name__ == "__main__":
    main()
