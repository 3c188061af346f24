"""What the MongoDB line sends, and that every document of ours passes its validators."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import bson
import pytest

from neolayer.catalogue import MongoCopy
from neolayer.errors import MigrationError
from neolayer.platform import data_classes
from neolayer.relay.changes import NULL, Misfit, Relation, Value
from neolayer.relay.sinks.bson import Encoder, id_from_texts, notation, texts_from_id
from neolayer.schema.files import load_migrations
from neolayer.schema.lines import Line
from neolayer.schema.mongodb_target import read_command
from neolayer.schema.statements import comment_of

GOLDEN = Path(__file__).parents[1] / "golden" / "mongodb_commands.json"
TIME, ID = b"2024-02-29 12:00:00.5+00", b"0190163d-8694-739b-aea5-966c26f8ad91"
TEXT, UUID, BOOL, BIGINT, JSONB, INSTANT, INET, BYTEA = 25, 2950, 16, 20, 3802, 1184, 869, 17
COLUMNS: dict[str, tuple[int, bytes]] = {
    **dict.fromkeys(("id", "tenant_id", "user_id", "data_id", "network_id"), (UUID, ID)),
    **dict.fromkeys(("occurred_at", "sealed_at", "created_at", "updated_at"), (INSTANT, TIME)),
    **dict.fromkeys(("success", "verified", "optimization_enabled"), (BOOL, b"t")),
    **dict.fromkeys(("chain_number", "deployed_block_number"), (BIGINT, b"7")),
    "deployed_at": (INSTANT, TIME),
    "action": (TEXT, b"LOGIN"),
    "changes": (JSONB, b'{"a": 1}'),
    "data": (JSONB, b'["anything"]'),
    "abi": (JSONB, b"[]"),
    "ip_address": (INET, b"192.0.2.1"),
    "entry_hash": (BYTEA, rb"\x00ff"),
}
KINDS: dict[str, type] = {
    "object": dict,
    "array": list,
    "string": str,
    "bool": bool,
    "date": datetime,
    "int": int,
    "long": int,
}


def commands() -> list[dict[str, Any]]:
    return [
        read_command(statement, migration.path)
        for migration in load_migrations()
        if migration.line is Line.MONGODB
        for statement in migration.up.statements
    ]


def test_the_commands_are_those_we_mean() -> None:
    """No server here enforces a validator or expires a document: what is asked of one is written
    down a second time, and a change must be made in both places."""
    assert commands() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_only_validators_and_expiry_may_be_missing() -> None:
    """Nothing else is optional: a collection or an index that is not made stops the migration."""
    optional = [
        read_command(statement, migration.path)
        for migration in load_migrations()
        if migration.line is Line.MONGODB
        for statement in migration.up.statements
        if comment_of(statement).startswith("optional:")
    ]
    assert len(optional) == 6
    for command in optional:
        assert "collMod" in command or "expireAfterSeconds" in command["indexes"][0]


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "{}"])
def test_what_is_no_command_is_refused(text: str) -> None:
    """A statement is one JSON object that names a command."""
    with pytest.raises(MigrationError):
        read_command(text, "mongodb/0001_x.mongodb")


def validators() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for command in commands():
        if "collMod" in command:
            trace, schema = command["validator"]["$or"]
            assert trace == {"_deleted": True}
            found[command["collMod"]] = schema["$jsonSchema"]
    return found


def misfits(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What a server would refuse: the parts of $jsonSchema that our validators use."""
    found = [name for name in schema["required"] if name not in document]
    for name, rule in schema["properties"].items():
        if name not in document:
            continue
        assert set(rule) <= {"bsonType", "enum"}
        if "enum" in rule and document[name] not in rule["enum"]:
            found.append(name)
        kinds = rule.get("bsonType", [])
        wanted = [KINDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)]
        kind = int if isinstance(document[name], bson.Int64) else type(document[name])
        if wanted and kind not in wanted:
            found.append(name)
    return found


def copies() -> list[tuple[str, MongoCopy]]:
    return [
        (one.table, copy)
        for one in data_classes()
        for copy in one.copies
        if isinstance(copy, MongoCopy)
    ]


def encoder(table: str, copy: MongoCopy) -> Encoder:
    schema, _, name = table.partition(".")
    types = tuple(COLUMNS.get(column, (TEXT, b""))[0] for column in copy.columns)
    return Encoder(Relation(1, schema, name, copy.columns, types), copy, notation(decimals=True))


@pytest.mark.parametrize(("table", "copy"), copies(), ids=lambda one: str(one)[:24])
def test_a_full_row_passes_the_validator(table: str, copy: MongoCopy) -> None:
    """Of each declared copy: every column set, then every column null that the validator spares."""
    schema = validators()[copy.collection]
    row: list[Value] = [COLUMNS.get(column, (TEXT, b"text"))[1] for column in copy.columns]
    whole = bson.decode(encoder(table, copy).live(row, 7).encoded)
    assert misfits(whole, schema) == []
    kept = {*copy.key, *(c for c in copy.columns if copy.names.get(c, c) in schema["required"])}
    sparse = [
        value if column in kept else NULL for column, value in zip(copy.columns, row, strict=True)
    ]
    assert misfits(bson.decode(encoder(table, copy).live(sparse, 7).encoded), schema) == []
    assert misfits({**whole, schema["required"][0]: 5}, schema) == [schema["required"][0]]


def test_no_copy_names_what_is_sealed_or_secret() -> None:
    """A column of sealed texts is in no document, and none whose name tells of a secret."""
    for one in data_classes():
        sealed = {each.column for each in one.sealed_fields}
        for copy in one.copies:
            if isinstance(copy, MongoCopy):
                assert not sealed & set(copy.columns)
                words = {word for column in copy.columns for word in column.split("_")}
                assert not words & {"password", "secret", "token", "key", "private", "seed"}


def test_numbers_are_never_rounded() -> None:
    """34 digits are a decimal, more are text; FerretDB has neither decimals nor NaN."""
    copy = MongoCopy("n", ("id",), ("id", "amount", "rate", "data"))
    relation = Relation(1, "public", "n", copy.columns, (BIGINT, 1700, 701, JSONB))
    row: list[Value] = [b"9223372036854775807", b"1" * 34, b"NaN", b'{"big": 12345678901234567890}']
    real = bson.decode(Encoder(relation, copy, notation(decimals=True)).live(row, 7).encoded)
    assert real["_id"] == 2**63 - 1
    assert str(real["amount"]) == "1" * 34
    assert isinstance(real["amount"], bson.Decimal128)
    assert real["rate"] != real["rate"]
    assert str(real["data"]["big"]) == "12345678901234567890"
    row[1] = b"1" * 35
    assert (
        bson.decode(Encoder(relation, copy, notation(decimals=True)).live(row, 7).encoded)["amount"]
        == "1" * 35
    )
    ferret = bson.decode(Encoder(relation, copy, notation(decimals=False)).live(row, 7).encoded)
    assert (ferret["rate"], ferret["data"]["big"]) == ("NaN", "12345678901234567890")


def test_what_cannot_be_a_document_says_why() -> None:
    """No exception: the row is refused, its neighbours are not."""
    copy = MongoCopy("n", ("id",), ("id", "data", "note"))
    relation = Relation(1, "public", "n", copy.columns, (BIGINT, 114, TEXT))
    make = Encoder(relation, copy, notation(decimals=True))
    causes = {
        b'{"a\\u0000b": 1}': "cannot be a document",
        b'"\\ud800"': "cannot be a document",
        b"[" * 50_000 + b"]" * 50_000: "cannot read the value",
    }
    for text, cause in causes.items():
        assert cause in make.live([b"1", text, NULL], 7).refusal
    assert "MongoDB takes" in make.live([b"1", b"{}", b"x" * (16 << 20)], 7).refusal
    assert make.live([b"1", b"{}", b"x"], 7).refusal == ""


def test_a_key_sorts_as_in_postgresql() -> None:
    """Whole numbers by value, all else by the bytes of its text; what does not is refused."""
    copy = MongoCopy("n", ("owner", "id"), ("owner", "id"), names={"owner": "who"})
    relation = Relation(1, "public", "n", copy.columns, (UUID, BIGINT))
    name = Encoder(relation, copy, notation(decimals=True)).id([ID, b"10"])
    assert name == {"who": ID.decode(), "id": 10}
    assert texts_from_id(name) == (ID.decode(), "10")
    assert id_from_texts(["who", "id"], texts_from_id(name), name) == name
    assert id_from_texts(["id"], ("7",), 1) == 7
    assert id_from_texts(["id"], ("7",), "x") == "7"
    numeric = Relation(1, "public", "n", ("id",), (1700,))
    with pytest.raises(Misfit, match="cannot be a document's key"):
        Encoder(numeric, MongoCopy("n", ("id",), ("id",)), notation(decimals=True))
