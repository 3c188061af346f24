"""E2 and E4: everything the HTTP API offers, tried from one tenant on another, and by those within
a tenant who may not; then every guard taken away in turn."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import redis
from litestar.handlers import HTTPRouteHandler
from psycopg import sql

from neolayer.api.layer import PERMISSION, POSITION_HEADER
from neolayer.engines.endpoints import Database, Role
from neolayer.face import Platform, TenantView
from neolayer.identity import AccessCache, Sessions, access_cache
from neolayer.tenancy import requests
from tests.fixtures import quotes
from tests.fixtures.fix_api import OPERATOR_TOKEN
from tests.fixtures.fix_served_api import Served
from tests.security.attacks import catalogue
from tests.security.attacks.attempts import Tally
from tests.security.attacks.requests import OPERATORS, OWN, Operation, operations

# What is said of an id by whoever looked for it: not there, nothing of it, or no way in. Any other
# refusal came before that, and two that are equal then say nothing.
LOOKED_FOR = {200, 204, 401, 404}
# Noted of whoever comes with a token that is A's own.
SEEN = "{last_seen_at,last_used_at,last_ip_address,last_used_ip}"


@dataclass(slots=True)
class Tenant:
    """A tenant with an object of every kind, and tokens of those in it."""

    view: TenantView
    id: UUID
    tokens: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    ids: dict[str, str] = field(default_factory=dict[str, str])
    role: str = ""
    cursor: str = ""
    marks: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class Field:
    """Two tenants, a server, and what it says it can do."""

    served: Served
    client: httpx.Client
    operations: list[Operation]
    a: Tenant
    b: Tenant

    def ask(
        self, token: str | None, method: str, url: str, body: Any = None, **params: Any
    ) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.client.request(method, url, headers=headers, json=body, params=params)


@pytest.fixture(scope="module")
def battle(served: Served) -> Iterator[Field]:
    with psycopg.connect(served.endpoints.postgres.dsn(Role.INGEST)) as ingest:
        ingest.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('ethereum', 1, 'evm')"
        )
    with httpx.Client(base_url=served.url) as client:
        found = operations(client.get("/schema/openapi.json").json())
        views = served.tenant(), served.tenant()
        a, b = (Tenant(view, view.scope.tenant) for view in views if view.scope.tenant)
        battle = Field(served, client, found, a, b)
        furnish(battle, a, "marker-a")
        furnish(battle, b, "marker-b")
        yield battle


def furnish(battle: Field, tenant: Tenant, mark: str) -> None:
    """An owner, somebody without any role, and one object of each kind, made as people do."""
    served = battle.served
    owner = served.person(tenant.view, f"{mark}-owner", "owner")
    nobody = served.person(tenant.view, f"{mark}-nobody")
    token = served.token(tenant.view, owner)

    def made(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = battle.ask(token, "POST", path, body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    wallets = [made("/v1/wallets", {"network": "ethereum", "name": mark}) for _ in range(2)]
    service = made("/v1/services", {"name": f"{mark}-service"})
    key = made(f"/v1/services/{service['id']}/keys", {})
    role = made("/v1/roles", {"name": f"{mark}-role", "permissions": ["users:read"]})
    quote = {"quote": quotes.quote("phala/sgx_quote").hex(), "enclave_id": f"{mark}-enclave"}
    attestation = made("/v1/attestations", quote)
    session = served.run(tenant.view.sessions.start(owner, ip_address="127.0.0.1"))
    tenant.tokens = {
        "owner": token,
        "nobody": served.token(tenant.view, nobody),
        "service": key["key"],
        "refresh": session.refresh_token,
    }
    tenant.ids = {
        "user": str(owner),
        "nobody": str(nobody),
        "session": str(session.session_id),
        "service": service["id"],
        "key": key["id"],
        "role": role["id"],
        "wallet": wallets[0]["id"],
        "attestation": attestation["attestation_id"],
        "tenant": str(tenant.id),
    }
    tenant.role = f"{mark}-role"
    tenant.cursor = battle.ask(token, "GET", "/v1/wallets", limit=1).json()["after"]
    tenant.marks = {mark, *tenant.ids.values(), *(wallet["address"] for wallet in wallets)}


def answer_of(answer: httpx.Response, sent: str) -> tuple[Any, ...]:
    """Everything of an answer but its date, the id that was asked for, and how far the log had
    come: the server's own work moves that on at any moment."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("date", "content-length")}
    if POSITION_HEADER in answer.headers:
        headers[POSITION_HEADER.lower()] = "*"
    return answer.status_code, answer.text.replace(sent, "*"), sorted(headers.items())


def attack(battle: Field, found: list[Operation]) -> Tally:
    """B's owner with A's ids and names in every place, and within A somebody who may nothing."""
    tally = Tally()
    for operation in found:
        _foreign_ids(battle, operation, tally)
        _foreign_names(battle, operation, tally)
        if operation.reads:
            _queries(battle, operation, tally)
        _trespass(battle, operation, tally)
    return tally


def _foreign_ids(battle: Field, operation: Operation, tally: Tally) -> None:
    a, b = battle.a, battle.b
    token = OPERATOR_TOKEN if operation.permission == OPERATORS else b.tokens["owner"]
    if token is OPERATOR_TOKEN:
        return  # operators are no tenant's
    own = dict.fromkeys(operation.ids, b.ids["user"])
    for place in operation.ids:
        for kind, theirs in a.ids.items():
            absent = str(uuid4())
            answers = [
                battle.ask(token, operation.method, operation.url(own | {place: i}), operation.body)
                for i in (theirs, absent)
            ]
            _compare(battle, f"{operation.label} {place}={kind}", answers, (theirs, absent), tally)
    for place in operation.body_ids:
        for kind, theirs in a.ids.items():
            absent = str(uuid4())
            url = operation.url(dict.fromkeys(operation.ids, b.ids["wallet"]))
            answers = [
                battle.ask(token, operation.method, url, (operation.body or {}) | {place: i})
                for i in (theirs, absent)
            ]
            _compare(battle, f"{operation.label} {place}={kind}", answers, (theirs, absent), tally)


def _foreign_names(battle: Field, operation: Operation, tally: Tally) -> None:
    for place in operation.names:
        if place == "permission":
            continue  # of the platform, not of a tenant
        absent = f"marker-{uuid4()}"
        own = dict.fromkeys(operation.ids, battle.b.ids["user"])
        answers = [
            battle.ask(
                battle.b.tokens["owner"],
                operation.method,
                operation.url(own | {place: name}),
                operation.body,
            )
            for name in (battle.a.role, absent)
        ]
        sent = battle.a.role, absent
        _compare(battle, f"{operation.label} {place}=role", answers, sent, tally)


def _compare(
    battle: Field, what: str, answers: list[httpx.Response], sent: tuple[str, str], tally: Tally
) -> None:
    tally.cases += 1
    foreign, absent = (answer_of(answer, i) for answer, i in zip(answers, sent, strict=True))
    if foreign != absent:
        tally.leaks.append(f"{what}: {foreign[:2]} is not {absent[:2]}")
    _look_for_marks(battle, what, str(foreign), tally)
    if answers[0].status_code not in LOOKED_FOR:
        tally.faults.append(f"{what}: not looked for, {answers[0].text}")


def _look_for_marks(battle: Field, what: str, text: str, tally: Tally) -> None:
    if seen := [mark for mark in battle.a.marks if mark in text]:
        tally.leaks.append(f"{what}: shows {seen}")


def _queries(battle: Field, operation: Operation, tally: Tally) -> None:
    """Lists, filters and pages: cursors of A, names of A, and none."""
    a, b = battle.a, battle.b
    tries: list[dict[str, Any]] = [{}]
    if "after" in operation.queries:
        tries += [{"after": a.cursor}, {"after": "marker-"}, {"after": a.ids["wallet"]}]
    if "limit" in operation.queries:
        tries.append({"limit": 1000})
    if "status" in operation.queries:
        tries.append({"status": "active"})
    if "network" in operation.queries:
        tries.append({"network": "ethereum"})
    if operation.permission in (None, OPERATORS):
        return
    url = operation.url({name: b.ids[name.removesuffix("_id")] for name in operation.ids})
    for params in tries:
        answer = battle.ask(b.tokens["owner"], "GET", url, **params)
        tally.cases += 1
        if answer.status_code >= 500:
            tally.faults.append(f"{operation.label} {params}: {answer.text}")
        _look_for_marks(battle, f"{operation.label} {params}", answer.text, tally)


def _trespass(battle: Field, operation: Operation, tally: Tally, *, absent: bool = False) -> None:
    """Within A: who lacks the permission, a service on what is for people, tenants on operators'
    routes; then nobody. `absent`: with ids of nothing, so that nothing is lost if they get in."""
    if operation.permission is None:
        return
    bearer = {OWN: "service", OPERATORS: "owner"}.get(operation.permission, "nobody")
    ids = {name: str(uuid4()) for name in operation.ids}
    if not absent:
        ids = {name: battle.a.ids[name.removesuffix("_id")] for name in ids}
    for token, status in ((battle.a.tokens[bearer], 403), (None, 401)):
        answer = battle.ask(token, operation.method, operation.url(ids), operation.body)
        tally.cases += 1
        if answer.status_code != status:
            tally.leaks.append(f"{operation.label} by {bearer}: {answer.status_code} not {status}")
        elif bearer == "nobody" and token and operation.permission not in answer.json()["detail"]:
            tally.leaks.append(f"{operation.label}: got past the door, {answer.json()['detail']}")


def swapped_tokens(battle: Field) -> Tally:
    """A's secrets under B's name, and each kind of token as each other."""
    tally, a, b = Tally(), battle.a, battle.b
    battle.ask(a.tokens["owner"], "GET", "/v1/users/me")  # known to the cache
    for what, token in a.tokens.items():
        secret = base64.urlsafe_b64decode(token[5:])[16:]
        swapped = base64.urlsafe_b64encode(b.id.bytes + secret).decode()
        for kind in ("nls1", "nlr1", "nlk1"):
            for text in (f"{kind}.{swapped}", f"{kind}.{token[5:]}"):
                if text == token:
                    continue
                tally.cases += 2
                for answer in (
                    battle.ask(text, "GET", "/v1/wallets"),
                    battle.ask(None, "POST", "/v1/sessions/refresh", {"refresh_token": text}),
                ):
                    if answer.status_code != 401:
                        tally.leaks.append(f"swapped {what} as {kind}: {answer.status_code}")
    return tally


def letters_of_another(battle: Field) -> Tally:
    """The token of a letter opens nothing under another tenant's name."""
    ours, theirs = (
        battle.served.run(t.view.tenants.get(t.id)).identifier for t in (battle.b, battle.a)
    )
    body = {"tenant": theirs, "email": "marker-a-owner@example.com"}
    assert battle.ask(None, "POST", "/v1/password-resets", body).status_code == 202
    (letter,) = (battle.served.data_dir / "letters").glob("*.eml")
    token = letter.read_text().split("\n\n", 1)[1].strip()
    letter.unlink()
    sent = token, token[:-4] + "AAAA"
    password = {"password": "another horse battery staple"}
    tally = Tally()
    for path, also in (("password-resets", password), ("email-verifications", {})):
        answers = [
            battle.ask(None, "POST", f"/v1/{path}/redeem", {"tenant": ours, "token": t} | also)
            for t in sent
        ]
        _compare(battle, path, answers, sent, tally)
        if answers[0].status_code != 401:
            tally.leaks.append(f"{path}: {answers[0].status_code}")
    return tally


def revoked_sessions(battle: Field) -> Tally:
    """A session that its owner ended is over at once where it was ended."""
    owner = UUID(battle.a.ids["nobody"])
    token = battle.served.token(battle.a.view, owner)
    assert battle.ask(token, "GET", "/v1/users/me").status_code == 200
    assert battle.ask(token, "DELETE", "/v1/sessions/current").status_code == 204
    answer = battle.ask(token, "GET", "/v1/users/me")
    return Tally(1, [] if answer.status_code == 401 else ["an ended session goes on"])


def colleagues_sessions(battle: Field) -> Tally:
    """Within a tenant: nobody ends a colleague's session, nor learns that there is one."""
    owner = UUID(battle.a.ids["user"])
    theirs = battle.served.run(battle.a.view.sessions.start(owner, ip_address="127.0.0.1"))
    sent = str(theirs.session_id), str(uuid4())
    tally = Tally()
    answers = [
        battle.ask(battle.a.tokens["nobody"], "DELETE", f"/v1/sessions/{session}")
        for session in sent
    ]
    tally.cases += 2
    assert answers[1].status_code == 404
    if answer_of(answers[0], sent[0]) != answer_of(answers[1], sent[1]):
        tally.leaks.append("a colleague's session is told from none")
    if battle.ask(theirs.access_token, "GET", "/v1/users/me").status_code != 200:
        tally.leaks.append("a colleague's session was ended")
    return tally


def limited(battle: Field) -> tuple[UUID, str]:
    """A tenant with three requests a minute, and the token of somebody in it."""
    view = battle.served.tenant()
    assert view.scope.tenant is not None
    battle.served.run(view.tenants.set_limits(view.scope.tenant, {"requests_per_minute": 3}))
    return view.scope.tenant, battle.served.token(view, battle.served.person(view, "eve"))


def used_up_limits(battle: Field) -> Tally:
    """One tenant's requests are not counted for another."""
    tokens = [limited(battle)[1] for _ in range(2)]
    answers = [battle.ask(tokens[0], "GET", "/v1/users/me").status_code for _ in range(4)]
    assert answers == [200, 200, 200, 429]
    other = battle.ask(tokens[1], "GET", "/v1/users/me").status_code
    return Tally(1, [] if other == 200 else ["one tenant used up another's requests"])


def fingerprint(battle: Field) -> dict[str, str]:
    """A hash of A's rows, table by table, but for who was seen last."""
    dsn = battle.served.endpoints.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn) as admin:
        return {
            table.name: str(
                admin.execute(
                    "SELECT md5(coalesce(string_agg(row, '|' ORDER BY row), '')) FROM ("
                    f" SELECT (to_jsonb(t) - %s::text[])::text AS row FROM {table.name} t"
                    f" WHERE {table.tenant} = %s) r",
                    (SEEN, battle.a.id),
                ).fetchone()
            )
            for table in catalogue.tenant_tables(admin)
        }


def test_E2_the_document_names_what_there_is_to_attack(battle: Field) -> None:
    """Every route says who may ask it, and A has an object for every id in a path."""
    assert len(battle.operations) > 60
    kinds = {place.removesuffix("_id") for o in battle.operations for place in o.ids}
    assert kinds <= set(battle.a.ids)
    closed = [o for o in battle.operations if o.permission is not None]
    assert len(battle.operations) - len(closed) == 5  # log in, refresh, three by letter


def test_E2_no_request_reaches_another_tenant(battle: Field) -> None:
    """A's ids, names and cursors are nothing to B's owner: the answer is that for what was never
    there, nothing of A shows, and nothing of A changed."""
    before = fingerprint(battle)
    tally = Tally()
    for operation in battle.operations:
        _foreign_ids(battle, operation, tally)
        _foreign_names(battle, operation, tally)
        if operation.reads:
            _queries(battle, operation, tally)
    assert tally.leaks == []
    assert tally.faults == []
    assert tally.cases > 250
    assert fingerprint(battle) == before


def test_E2_nobody_does_more_than_they_may(battle: Field) -> None:
    """Every route refuses who lacks its permission, services, tenants and strangers."""
    tally = Tally()
    for operation in battle.operations:
        _trespass(battle, operation, tally)
    assert tally.leaks == []
    assert tally.cases == 2 * sum(o.permission is not None for o in battle.operations)


@pytest.mark.parametrize(
    "attempt",
    [swapped_tokens, letters_of_another, revoked_sessions, colleagues_sessions, used_up_limits],
)
def test_E5_E10_tokens_sessions_and_limits_are_of_one_tenant(
    battle: Field, attempt: Callable[[Field], Tally]
) -> None:
    """Another tenant in a token, an ended session, a colleague's, another's requests."""
    tally = attempt(battle)
    assert tally.leaks == []
    assert tally.cases > 0


def test_E2_every_key_in_redis_names_its_tenant(battle: Field) -> None:
    """The counters of requests cannot meet: the tenant stands in each key."""
    both = [limited(battle) for _ in range(2)]
    for _, token in both:
        assert battle.ask(token, "GET", "/v1/users/me").status_code == 200
    client = redis.Redis.from_url(battle.served.endpoints.redis.url)
    try:
        keys = {key.decode() for key in client.scan_iter("requests:*")}
    finally:
        client.close()
    assert {f"requests:{tenant}" for tenant, _ in both} <= keys
    assert all(UUID(key.removeprefix("requests:")) for key in keys)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A guard taken away, and the attack that must notice."""

    what: str
    without: Callable[[], Any]
    attack: Callable[[Field], Tally]


def mutants(battle: Field) -> Iterator[Mutant]:
    """Each route's guard, and each place at which a tenant or a person is bound to something."""
    for operation in battle.operations:
        if operation.permission is not None:
            yield Mutant(
                f"guard of {operation.label}",
                lambda o=operation: _unguarded(_handler(battle, o)),
                lambda battle, o=operation: _trespasses(battle, o),
            )
    view = Platform.view
    yield Mutant(
        "the tenant of the token",
        lambda: _replaced(Platform, "view", lambda self, _, by: view(self, battle.a.id, by=by)),
        lambda battle: attack(battle, [o for o in battle.operations if o.reads]),
    )
    yield Mutant(
        "the tenant in the cache's key",
        lambda: _replaced(access_cache, "sha256", _secret_only),
        swapped_tokens,
    )
    yield Mutant(
        "what the cache forgets",
        lambda: _replaced(AccessCache, "forget", lambda *_: None),
        revoked_sessions,
    )
    yield Mutant(
        "the tenant in the limiter's key",
        lambda: _replaced(requests, "KEY", f"requests:{uuid4()}"),
        used_up_limits,
    )
    revoke = Sessions.revoke
    yield Mutant(
        "whose session is ended",
        lambda: _replaced(
            Sessions,
            "revoke",
            lambda self, session_id, of=None, reason="revoked": revoke(
                self, session_id, reason=reason
            ),
        ),
        colleagues_sessions,
    )


def _trespasses(battle: Field, operation: Operation) -> Tally:
    tally = Tally()
    _trespass(battle, operation, tally, absent=True)
    return tally


def _handler(battle: Field, operation: Operation) -> HTTPRouteHandler:
    for route in battle.served.app.routes:
        for handler in getattr(route, "route_handlers", ()):
            is_it = route.path_format == operation.path and operation.method in handler.http_methods
            if is_it and PERMISSION in handler.opt:
                return handler
    raise AssertionError(f"no handler of {operation.label}")


@contextmanager
def _unguarded(handler: HTTPRouteHandler) -> Iterator[None]:
    with _replaced(handler, "_resolved_guards", []):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _database_asks_nobody(battle: Field) -> Iterator[None]:
    """The triggers that ask for a verb's permission stand aside: behind them a guard of the API
    could be missing unseen."""
    dsn = battle.served.endpoints.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        asking = admin.execute(
            "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'ask_permission'"
        ).fetchall()
        assert asking != []
        tables = [sql.Identifier(*table.split(".")) for (table,) in asking]
        alter = sql.SQL("ALTER TABLE {} {} TRIGGER ask_permission")
        for table in tables:
            admin.execute(alter.format(table, sql.SQL("DISABLE")))
        try:
            yield
        finally:
            for table in tables:
                admin.execute(alter.format(table, sql.SQL("ENABLE")))


def _secret_only(token: bytes) -> Any:
    return hashlib.sha256(base64.urlsafe_b64decode(token[5:])[16:])


# Behind these the database refuses too, naming the same permission.
SHADOWED = {
    "guard of POST /v1/roles",
    "guard of POST /v1/services",
    "guard of POST /v1/users",
    "guard of PUT /v1/services/{service_id}/roles/{name}",
    "guard of PUT /v1/users/{user_id}/roles/{name}",
}


@pytest.mark.security
def test_E4_every_guard_of_the_api_is_needed(battle: Field, pytestconfig: pytest.Config) -> None:
    """With any one guard taken away, some attack gets through."""
    cases, killed, survivors = 0, 0, list[str]()
    found = [mutant for mutant in mutants(battle) if mutant.what not in SHADOWED]
    with _database_asks_nobody(battle):
        for mutant in found:
            with mutant.without():
                tally = mutant.attack(battle)
            cases += tally.cases
            killed += bool(tally.leaks)
            if not tally.leaks:
                survivors.append(mutant.what)
    leaks: list[str] = []
    for healthy in (
        attack(battle, battle.operations),
        swapped_tokens(battle),
        letters_of_another(battle),
        revoked_sessions(battle),
        colleagues_sessions(battle),
        used_up_limits(battle),
    ):
        cases += healthy.cases
        leaks += healthy.leaks
    figures = {"cases": cases, "leaks": len(leaks), "mutants": len(found), "kills": killed}
    assert pytestconfig.cache is not None
    pytestconfig.cache.set("security/http", figures)
    assert leaks == []
    assert survivors == []
