"""E12: secrets of people appear nowhere but where they are needed."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psycopg
import pytest
from prometheus_client import generate_latest
from pyotp.totp import TOTP

from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.engines.embedded.services import Service
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import NeolayerError
from neolayer.identity import Client, Credentials, InvalidName, PasswordHasher, WeakPassword
from neolayer.identity.model import canonical_email, canonical_username
from neolayer.identity.passwords import acceptable
from neolayer.keys import Keyring
from neolayer.settings import load_settings
from neolayer.supervision import services
from neolayer.telemetry import REGISTRY
from neolayer.tenancy import Principal, open_core
from tests.fixtures.fix_api import OPERATOR_TOKEN, Api, Person
from tests.fixtures.fix_api import PASSWORD as PASSWORD_OF_ALL
from tests.fixtures.fix_identity import People

PASSWORD = "canary lamp orbits one"
OTHER = "canary lamp orbits two"
WRONG = "canary lamp orbits three"
COMMON = "canarycanarycanary"


@dataclass
class Heard:
    """What came out anywhere, and the secrets that must not be in it."""

    secrets: list[str] = field(default_factory=lambda: [PASSWORD, OTHER, WRONG, COMMON])
    said: list[str] = field(default_factory=list)

    def value(self, value: object) -> None:
        self.said += [repr(value), str(value), f"{value!r:>5}"]

    def error(self, exc: BaseException) -> None:
        self.value(exc)
        self.value(exc.args)
        self.value(exc.__context__)
        self.said.append("".join(traceback.format_exception(exc)))

    def found(self, text: str) -> list[str]:
        folded = text.casefold()
        return [secret for secret in self.secrets if secret.casefold() in folded]


@contextlib.asynccontextmanager
async def traced(at: Endpoints, hasher: PasswordHasher, keyring: Keyring, into: IO[bytes]):
    """A fresh tenant's people over one connection, every byte of which is written down."""
    async with open_core(at, size=1, application_name="tests") as core:
        async with core.connection() as connection:
            connection.pgconn.trace(into.fileno())
        with psycopg.connect(at.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
            row = admin.execute(
                "INSERT INTO core.tenants (name, identifier, subscription_tier)"
                " VALUES ('Acme', 'canary', 'enterprise') RETURNING id"
            ).fetchone()
        assert row is not None
        yield People(core.scope(row[0], by=Principal.operator("tests")), hasher, keyring)
        async with core.connection() as connection:
            connection.pgconn.untrace()


async def refused(heard: Heard, work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except NeolayerError as exc:
        heard.error(exc)
        return
    raise AssertionError("it was not refused")


async def live(people: People, heard: Heard) -> None:
    """A life in which every secret is made, used rightly and used wrongly."""
    user = await people.add("ann", password=PASSWORD)
    client = Client("192.0.2.1", user_agent="tests")
    await refused(heard, people.add("bob", password=COMMON))
    await refused(heard, people.login.check("ann", Credentials(WRONG), client))
    await refused(heard, people.login.check(WRONG, Credentials(PASSWORD), client))
    await refused(heard, people.login.check("ann", Credentials(WRONG + "\ud800"), client))
    enrolment = await people.users.mfa.begin(user.id)
    heard.secrets += [enrolment.secret, enrolment.uri]
    code = TOTP(enrolment.secret).generate_otp(int(time.time()) // 30)
    codes = await people.users.mfa.confirm(user.id, code=code)
    heard.secrets += codes
    heard.secrets += [one.replace("-", "") for one in codes]
    await refused(heard, people.login.check("ann", Credentials(PASSWORD), client))
    await refused(heard, people.login.check("ann", Credentials(PASSWORD, code=code), client))
    offered = Credentials(PASSWORD, recovery_code=codes[0])
    entered = await people.login.check("ann", offered, client)
    heard.secrets.append(entered.device)
    known = Client("192.0.2.1", device=entered.device)
    await people.login.check("ann", Credentials(PASSWORD, recovery_code=codes[1]), known)
    heard.secrets += await people.users.mfa.renew_recovery_codes(
        user.id, Credentials(PASSWORD, recovery_code=codes[2]), client
    )
    await people.mail.request_verification(user.id)
    await people.mail.request_reset("ann@example.com")
    verification, reset = people.mailbox.letters
    heard.secrets += [verification.token, reset.token]
    await people.mail.verify_email(verification.token)
    await refused(heard, people.mail.verify_email(verification.token))
    await refused(heard, people.mail.reset_password(reset.token, password=COMMON))
    await people.mail.reset_password(reset.token, password=OTHER)
    await refused(heard, people.mail.reset_password(reset.token, password=OTHER))
    for value in (user, enrolment, offered, entered, known, verification, people, people.users):
        heard.value(value)
    heard.value(people.login)
    heard.value(people.mail)


async def test_E12_no_secret_of_a_person_gets_out(
    module_databases: Endpoints,
    hasher: PasswordHasher,
    keyring: Keyring,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not into a row of any table, an audit entry, an error, a representation, a log record, or a
    message to PostgreSQL: what is stored is hashed or sealed before it leaves the process."""
    caplog.set_level(logging.DEBUG)
    heard = Heard()
    with tempfile.TemporaryFile() as wire:
        async with traced(module_databases, hasher, keyring, wire) as people:
            await live(people, heard)
        wire.seek(0)
        sent = wire.read().decode("latin-1")
    assert len(heard.secrets) > 30
    assert "ann@example.com" in sent
    assert "argon2id" in sent
    assert heard.found(sent) == []
    assert heard.found(dump(module_databases)) == []
    assert heard.found("\n".join(heard.said)) == []
    assert heard.found("\n".join(record.getMessage() for record in caplog.records)) == []


def dump(at: Endpoints) -> str:
    """Every row of every table of the core database, as text."""
    lines: list[str] = []
    with psycopg.connect(at.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
        tables = admin.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace::regnamespace::text IN ('core', 'auth', 'audit')"
        ).fetchall()
        for (table,) in tables:
            rows = admin.execute(f"SELECT t::text FROM {table} AS t").fetchall()  # type: ignore[arg-type]
            lines += [row[0] for row in rows]
    assert any("argon2id" in line for line in lines)
    return "\n".join(lines)


@pytest.mark.parametrize("text", ["canary\ud800pass" * 9, "\x00canary" * 40, "canary" * 1000])
def test_E12_what_is_refused_is_not_repeated(text: str) -> None:
    """People type passwords into the field of the name: no refusal shows what was typed, nor does
    an error behind it."""
    heard = Heard(secrets=["canary"])
    for refuse in (canonical_email, canonical_username):
        for typed in (text, f"{text}@x.example", f"a@{text}"):
            with pytest.raises(InvalidName) as caught:
                refuse(typed)
            heard.error(caught.value.with_traceback(None))
    with pytest.raises(WeakPassword) as weak:
        acceptable(text, mfa=False, personal=())
    heard.error(weak.value.with_traceback(None))
    assert heard.found("\n".join(heard.said)) == []


SETTINGS = """
[serve]
operator_token = "canary-operator-0123456789-0123456789"
[keys]
provider = "environment"
key = "canary-key"
previous = ["canary-previous"]
[keys.kms]
secret_access_key = "canary-kms"
[keys.vault]
token = "canary-vault"
"""


def test_E12_a_worker_is_started_with_its_own_secrets_only(tmp_path: Path) -> None:
    """The operators' token is for who answers requests, the keys are for who opens secrets (the
    relay signs what webhooks are sent); no secret is an argument, which every account can read."""
    file = tmp_path / "neolayer.toml"
    file.write_text(SETTINGS)
    settings = load_settings(file, data_dir=tmp_path)
    directory = DataDirectory(tmp_path)
    names = ("postgres", "redis", "clickhouse", "serve")
    parts = services(settings, directory, dict.fromkeys(names, 7))
    started = {part.name: part for part in parts if isinstance(part, Service)}
    seen = {name: str(service.env) for name, service in started.items()}
    everything = ("operator", "key", "previous", "kms", "vault")
    keys = everything[1:]
    told = {name: {one for one in everything if f"canary-{one}" in seen[name]} for name in seen}
    assert told == {
        **{name: set() for name in ("postgres", "redis", "clickhouse")},
        **{"tasks": {*keys}, "relay": {*keys}, "serve": {*everything}},
    }
    assert not any("canary" in str(service.argv) for service in started.values())


CANARY = "canary-0123456789-0123456789-0123456789"
BODIES: tuple[dict[str, Any], ...] = (
    {"json": {"tenant": "acme", "name": "ann", "password": CANARY}},
    {"json": {"tenant": "acme", "name": CANARY, "password": CANARY}},
    {"json": {"tenant": "acme", "name": "ann", "password": [CANARY]}},
    {"json": {"tenant": "acme", "name": "ann", "passwort": CANARY}},
    {"json": {"refresh_token": CANARY}},
    {"json": {"token": CANARY, "password": CANARY}},
    {"json": {"password": CANARY, "new_password": CANARY, "code": CANARY}},
    {"json": CANARY},
    {"content": f'{{"password": "{CANARY}", "password": "{CANARY}"}}'},
    {"content": f'{{"password": "{CANARY}'},
)


async def test_E12_no_answer_log_or_metric_repeats_a_secret(
    api: Api, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever is typed into whichever route, well formed or not, logged in or not: problem
    documents, headers, log records and counters say nothing of it, nor of anybody's tokens."""
    caplog.set_level(logging.DEBUG)
    ann = await api.person(await api.tenant("acme"), "ann", "owner")
    schema = (await api.client.get("/schema/openapi.json")).json()
    routes = [
        (method, path)
        for path, methods in schema["paths"].items()
        for method in methods
        if method in ("post", "put", "patch")
    ]
    assert len(routes) > 25
    heard = Heard(secrets=[CANARY, PASSWORD_OF_ALL, OPERATOR_TOKEN, *map(str, secrets_of(ann))])
    for method, path in routes:
        place = re.sub(r"\{[^}]*\}", str(ann.user_id), path)
        for body in BODIES:
            headers = {"content-type": "application/json", "authorization": f"Bearer {CANARY}"}
            for ask in (api.client.request, ann.ask):
                options: dict[str, Any] = body if ask == ann.ask else {**body, "headers": headers}
                answer = await ask(method.upper(), place, params={"token": CANARY}, **options)
                if answer.status_code >= 400:
                    heard.said += [answer.text, str(answer.headers)]
    clients = ("httpx", "httpcore")  # ours, in this process
    heard.said += [r.getMessage() for r in caplog.records if r.name not in clients]
    heard.said += [*capfd.readouterr(), generate_latest(REGISTRY).decode()]
    assert len(heard.said) > 1000
    assert [said[:300] for said in heard.said if heard.found(said)] == []


def secrets_of(person: Person) -> list[str]:
    return [person.tokens["access_token"], person.tokens["refresh_token"]]
