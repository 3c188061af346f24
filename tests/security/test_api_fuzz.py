"""Requests made up from the API's own document, by everybody it knows: no answer is a fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema_rs
import psycopg
import pytest
import schemathesis
from msgspec import ValidationError, convert
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from neolayer.api.fields import Line
from neolayer.engines.endpoints import Role
from neolayer.identity import UnknownToken
from tests.fixtures.fix_api import OPERATOR_TOKEN
from tests.fixtures.fix_served_api import Served

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
)
PHASES = ("examples", "coverage", "fuzzing", "stateful")
# How malformed data is refused: 413 where it is also too long to be read to its end, and no 5xx.
REFUSALS = (400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429)


@dataclass(slots=True)
class Member:
    """Somebody of a tenant who comes back, whatever the requests did to them."""

    served: Served
    role: str
    _token: str = ""
    _count: int = 0
    _tenant: Any = None

    def token(self) -> str:
        """A token that is good now."""
        try:
            self.served.run(self.served.platform.access.check(self._token))
        except UnknownToken:
            self._tenant = self._tenant or self.served.tenant()
            self._count += 1
            user = self.served.person(self._tenant, f"{self.role}{self._count}", self.role)
            self._token = self.served.token(self._tenant, user)
        return self._token


@dataclass(slots=True)
class Operator:
    def token(self) -> str:
        return OPERATOR_TOKEN


@dataclass(slots=True)
class Outcome:
    """How often each status came back, and what should not have; judged by the API's document."""

    document: dict[str, Any]
    statuses: Counter[int] = field(default_factory=Counter[int])
    faults: dict[str, str] = field(default_factory=dict[str, str])

    def note(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.ScenarioFinished):
            for interaction in event.recorder.interactions.values():
                answer = interaction.response
                self.statuses[0 if answer is None else answer.status_code] += 1
            for case, checks in event.recorder.checks.items():
                for check in checks:
                    found = check.failure_info
                    if found is not None and not self._was_mended(event.recorder, case, check):
                        what = f"{event.label}: {check.name}: {found.failure.message[:300]}"
                        self.faults.setdefault(what, found.code_sample[:800])
        elif isinstance(event, events.NonFatalError | events.FatalError):
            error = event.value if isinstance(event, events.NonFatalError) else event.exception
            self.faults[f"{type(error).__name__}: {error}"[:600]] = ""

    def _was_mended(self, recorder: Any, case: str, check: Any) -> bool:
        """In sequences the body of a case may be replaced by one that is good, by what the route
        before gave: then nothing malformed was sent."""
        if check.name != "negative_data_rejection":
            return False
        in_body = "Invalid component: in body" in check.failure_info.failure.message
        operation, sent = recorder.cases[case].value.operation, recorder.interactions[case].request
        return in_body and self.is_documented(operation.method, operation.path, sent.body)

    def is_documented(self, method: str, path: str, body: bytes | None) -> bool:
        """Whether the document has such a body."""
        form = self.document["paths"][path][method.lower()]["requestBody"]["content"]
        schema = form["application/json"]["schema"] | {"components": self.document["components"]}
        # The validator's expressions know no half characters, and it takes none.
        spelled = json.dumps(schema).replace(r"\\ud800-\\udfff", "")
        try:
            return bool(jsonschema_rs.validator_for(spelled).is_valid(json.loads(body or b"")))
        except ValueError:
            return False

    def told(self) -> str:
        return "\n".join(f"{what}\n  {how}" for what, how in self.faults.items())


def fuzz(
    served: Served,
    caller: Member | Operator | None,
    *phases: str,
    examples: int,
    seconds: int,
) -> Outcome:
    """Everything the phases make up for every route, sent by one caller."""
    document = httpx.get(f"{served.url}/schema/openapi.json").json()
    settings = {
        "seed": 1,
        "base-url": served.url,
        "max-time": seconds,
        "suppress-health-check": ["all"],
        "continue-on-failure": True,
        "generation": {
            "max-examples": examples,
            "database": "none",
            "no-shrink": True,
            "deterministic": True,
            "with-security-parameters": False,
        },
        "phases": {phase: {"enabled": phase in phases} for phase in PHASES},
        "checks": {"enabled": False} | {check: {"enabled": True} for check in CHECKS},
    }
    settings["checks"]["negative_data_rejection"]["expected-statuses"] = list(REFUSALS)
    settings["phases"]["coverage"]["unexpected-methods"] = []
    schema = schemathesis.openapi.from_dict(
        document, config=SchemathesisConfig.from_dict(settings)
    ).include(path_regex="^/v1/")
    _known_networks(schema)
    if caller is not None:
        _bearing(schema, caller)
    outcome = Outcome(document)
    for event in from_schema(schema).execute():
        outcome.note(event)
    return outcome


def _known_networks(schema: Any) -> None:
    @schema.hook
    def map_body(context: Any, body: Any) -> Any:
        """A network that is there, wherever the body names any in the documented form: what breaks
        that stays, since it is to be refused for it."""
        if isinstance(body, dict) and _is_line(body.get("network")):
            body["network"] = "ethereum"
        return body


def _is_line(value: object) -> bool:
    try:
        convert(value, Line)
    except ValidationError:
        return False
    return True


def _bearing(schema: Any, caller: Member | Operator) -> None:
    @schema.auth(refresh_interval=None)
    class Bearing:
        def get(self, case: Any, context: Any) -> str:
            return caller.token()

        def set(self, case: Any, data: str, context: Any) -> None:
            case.headers["Authorization"] = f"Bearer {data}"


@pytest.fixture(scope="module", autouse=True)
def network(served: Served) -> None:
    """A network, so that wallets can be made."""
    with psycopg.connect(served.endpoints.postgres.dsn(Role.INGEST)) as ingest:
        ingest.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('ethereum', 1, 'evm')"
        )


def require_faultless(outcome: Outcome, *, requests: int) -> None:
    assert outcome.faults == {}, outcome.told()
    assert outcome.statuses.total() >= requests, outcome.statuses
    assert not [status for status in outcome.statuses if not 200 <= status < 500]


def test_D_E2_every_edge_of_every_field_is_answered_as_documented(served: Served) -> None:
    """The owner sends each limit, type and format, kept and broken, to each route: no 5xx, no
    status, type or body that the document does not name, and nothing malformed is taken."""
    outcome = fuzz(served, Member(served, "owner"), "coverage", examples=1, seconds=240)
    require_faultless(outcome, requests=1000)
    assert outcome.statuses[200] and outcome.statuses[201] and outcome.statuses[204]


CALLERS: dict[str, Callable[[Served], Member | Operator | None]] = {
    "member": lambda served: Member(served, "member"),
    "operator": lambda _: Operator(),
    "nobody": lambda _: None,
}


@pytest.mark.security
@pytest.mark.parametrize("name", CALLERS)
def test_D_E2_the_same_from_those_who_may_less(served: Served, name: str) -> None:
    """A member, the operators' token, and no token at all."""
    outcome = fuzz(served, CALLERS[name](served), "coverage", examples=1, seconds=240)
    require_faultless(outcome, requests=500)


@pytest.mark.parametrize(
    ("body", "is_documented"),
    [
        (b'{"permissions": ["*"]}', True),
        (b'{"permissions": ["*"], "description": null}', True),
        (b'{"permissions": "*"}', False),
        (b'{"permissions": ["*"], "more": 1}', False),
        (b'{"permissions": ["' + b"a" * 256 + b'"]}', False),
        (b'{"permissions": [1]}', False),
        (b'{"permissions": [""]}', False),
        (b'{"permissions": ["\\u202e"]}', False),
        (b'{"permissions": ["\\ud800"]}', False),
        (b"[]", False),
        (b"\xff{", False),
        (None, False),
    ],
)
def test_a_body_is_judged_by_the_document(
    served: Served, body: bytes | None, is_documented: bool
) -> None:
    """What the fuzzer takes for malformed is passed over only where it is not."""
    outcome = Outcome(httpx.get(f"{served.url}/schema/openapi.json").json())
    assert outcome.is_documented("PUT", "/v1/roles/{name}", body) is is_documented


@pytest.mark.security
@pytest.mark.parametrize("phase", ["fuzzing", "stateful"])
def test_D_E2_random_requests_and_random_sequences(served: Served, phase: str) -> None:
    """Made-up bodies, and sequences in which what one route gave is sent to the next."""
    caller = Member(served, "owner")
    outcome = fuzz(served, caller, phase, examples=6, seconds=40)
    require_faultless(outcome, requests=200)
