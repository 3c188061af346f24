"""What `up` cannot work with: one sentence, no traceback, an exit code, nothing left running."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.fixtures.layer_commands import Layer

from neolayer.engines.embedded.ports import free_port
from neolayer.engines.embedded.processes import strays

SECRET = "s3cret-of-the-user"


def refused(layer: Layer, *arguments: str) -> str:
    """The error of a command that must fail."""
    run = layer.run(*arguments)
    assert run.returncode not in (0, 3), run.stderr
    assert "Traceback" not in run.stderr
    assert SECRET not in run.stderr + run.stdout
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, run.stderr
    assert strays(layer.data_dir.resolve()) == []
    return errors[0]


def elsewhere(**dsns: str) -> dict[str, str]:
    """All engines elsewhere, at addresses where nobody answers unless said otherwise."""
    nobody = f"127.0.0.1:{free_port()}"
    return {
        "NEOLAYER_POSTGRES__DSN": dsns.get("postgres", f"postgresql://u:{SECRET}@{nobody}/x"),
        "NEOLAYER_REDIS__DSN": dsns.get("redis", f"redis://:{SECRET}@{nobody}/0"),
        "NEOLAYER_CLICKHOUSE__DSN": dsns.get("clickhouse", f"http://u:{SECRET}@{nobody}/x"),
    }


def test_a_port_taken(traversable_tmp: Path) -> None:
    """A fixed port on which somebody listens is named before anything starts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        layer = Layer(traversable_tmp / "data", {"NEOLAYER_SERVE__PORT": str(port)})
        for arguments in (("up",), ("up", "--detach")):
            said = refused(layer, *arguments)
            assert f"port {port} on 127.0.0.1 cannot be used: Address already in use" in said


@pytest.mark.parametrize(
    ("dsns", "words"),
    [
        ({}, "refuses the connection"),
        ({"postgres": f"postgres//{SECRET} x"}, "postgres: the DSN cannot be read"),
        ({"redis": f"http://{SECRET}"}, "redis: the DSN cannot be read"),
        ({"clickhouse": f"ftp://u:{SECRET}@h"}, "clickhouse: the DSN cannot be read"),
    ],
)
def test_a_wrong_dsn(traversable_tmp: Path, dsns: dict[str, str], words: str) -> None:
    """A DSN that cannot be read, or leads nowhere, is told with the engine and without secrets."""
    said = refused(Layer(traversable_tmp / "data", elsewhere(**dsns)), "up")
    assert words in said


def test_a_data_directory_that_is_a_file(traversable_tmp: Path) -> None:
    """The sentence comes through the command line."""
    (traversable_tmp / "data").touch()
    assert "is a file" in refused(Layer(traversable_tmp / "data"), "up", "--detach")


def test_doctor_tells_what_is_wrong(traversable_tmp: Path) -> None:
    """`doctor` lists each engine that does not answer with the way out, and ends with 1."""
    variables = elsewhere() | {"NEOLAYER_OBJECTS__URL": "ftp://bucket"}
    run = Layer(traversable_tmp / "data", variables).run("doctor", "--json")
    assert run.returncode == 1
    assert run.stdout.count("refuses the connection") == 3
    assert "write objects.url as s3://bucket/prefix" in run.stdout
    assert SECRET not in run.stdout
    assert not (traversable_tmp / "data").exists()
