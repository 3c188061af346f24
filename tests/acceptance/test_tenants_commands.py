"""`neolayer tenants` as an operator uses it: all its verbs on one layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fixtures.folders import traversable_folder
from tests.fixtures.layer_commands import Layer, Run


@pytest.fixture(scope="module")
def layer() -> Iterator[Layer]:
    with traversable_folder() as folder:
        started = Layer(folder / "data")
        up = started.run("up", "--detach")
        try:
            assert up.returncode == 0, up.stderr
            yield started
        finally:
            started.run("down")


def told(run: Run) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_tenants_life_at_the_command_line(layer: Layer) -> None:
    """Made, listed, renamed, changed, closed and reopened; each answer is JSON where asked for."""
    made = told(layer.run("tenants", "create", "acme", "--name", "Acme", "--tier", "pro", "--json"))
    assert (made["identifier"], made["name"], made["tier"]) == ("acme", "Acme", "pro")
    assert layer.run("tenants", "create", "other").stderr.startswith("Made other, ")
    listed = told(layer.run("tenants", "list", "--json"))
    assert [each["identifier"] for each in listed] == ["acme", "other"]
    assert told(layer.run("tenants", "rename", made["id"], "Acme 2", "--json"))["name"] == "Acme 2"
    assert told(layer.run("tenants", "tier", "acme", "basic", "--json"))["tier"] == "basic"
    changed = told(layer.run("tenants", "limits", "acme", "users=7", "wallets=none", "--json"))
    assert changed["limits"] == {"users": 7, "wallets": None}
    changed = told(layer.run("tenants", "limits", "acme", "users=tier", "--json"))
    assert changed["limits"] == {"wallets": None}
    assert changed["allowances"]["users"] == {"allowed": 25, "used": 0}
    settings = told(layer.run("tenants", "settings", "acme", 'theme="dark"', "n=1", "--json"))
    assert settings == {"theme": "dark", "n": 1}
    assert told(layer.run("tenants", "settings", "acme", "n=", "--json")) == {"theme": "dark"}
    unsure = layer.run("tenants", "delete", "acme")
    assert (unsure.returncode, unsure.stdout) == (2, "")
    assert "--yes" in unsure.stderr
    assert told(layer.run("tenants", "delete", "acme", "--yes", "--json"))["deleted_at"]
    assert [each["identifier"] for each in told(layer.run("tenants", "list", "--json"))] == [
        "other"
    ]
    assert told(layer.run("tenants", "show", "acme", "--json"))["deleted_at"]
    taken = layer.run("tenants", "create", "acme")
    assert (taken.returncode, taken.stdout) == (1, "")
    assert "bears or bore" in taken.stderr
    assert told(layer.run("tenants", "restore", "acme", "--json"))["deleted_at"] is None
    shown = layer.run("tenants", "show", "acme")
    assert "no limit" in shown.stdout and "Acme 2" in shown.stdout
    audited = "SELECT principal, action FROM audit.entries WHERE resource = 'tenant' ORDER BY 1"
    entries = told(layer.run("query", "core", audited, "--tenant", "acme", "--json"))
    assert len(entries) == 9
    assert all(entry["principal"].startswith("operator:") for entry in entries)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("show", "nobody"), "nobody"),
        (("create", "No Such"), "identifier"),
        (("limits", "acme", "cars=1"), "cars"),
        (("settings", "acme", "theme=dark"), "theme=dark"),
    ],
)
def test_what_cannot_be_done_is_one_error(
    layer: Layer, arguments: tuple[str, ...], word: str
) -> None:
    """Nothing on stdout, and an error that names what was wrong."""
    run = layer.run("tenants", *arguments)
    assert run.returncode in (1, 2) and run.stdout == ""
    assert run.stderr.startswith("error: ") and word in run.stderr
    assert "Traceback" not in run.stderr
