"""What is done with a request before anybody knows who sent it: cheaply, and not to be fooled."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from neolayer.api.bodies import depth
from neolayer.api.callers import is_by_https, source_address
from neolayer.api.layer import Layer
from neolayer.errors import InvalidInput
from neolayer.settings import ServeSettings

FOREIGN, OURS = "203.0.113.66", "198.51.100.7"


@pytest.mark.parametrize("shape", [b'"' + b'\\"' * 250_000, b'"a' * 250_001, b"\\" * 500_000])
def test_D_a_body_costs_no_more_than_its_length(shape: bytes) -> None:
    """Strings without an end are looked at once, not once from each of their quotes."""
    start = time.process_time()
    assert depth(shape) == 0
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", 1),
        (b'{"a": [{"b": 1}]}', 3),
        (b'{"[[[[": "]]{{{\\"{{"}', 1),
        (b'["a\\\\", [1]]', 2),
        (b"[[]", 2),
        (b'["[[[[', 1),
    ],
)
def test_D_depth_counts_brackets_outside_of_strings(body: bytes, expected: int) -> None:
    """A bracket in a string opens nothing, whatever is escaped before it."""
    assert depth(body) == expected


async def test_an_operators_token_may_be_any_text() -> None:
    """Letters beyond ASCII are compared too, rather than failing every request that has a token."""
    token = "schlüssel-der-betreiber-und-sonst-niemands"
    layer = Layer(AsyncExitStack, ServeSettings(operator_token=SecretStr(token)))  # type: ignore[arg-type]
    assert layer.is_operators(token)
    assert not layer.is_operators("nls1.of-somebody-else")
    await layer.close()


def test_E8_an_address_cannot_be_made_up_by_a_header_of_ones_own() -> None:
    """Some proxies append to the header, some add a line below the caller's: the last entry of all
    lines is the one that our proxy saw."""
    for lines in ([FOREIGN, OURS], [f"{FOREIGN}, {OURS}"]):
        assert source_address(lines, "127.0.0.1", proxy_depth=1) == OURS
        assert source_address(lines, "127.0.0.1", proxy_depth=0) == "127.0.0.1"


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("198.51.100.7:51234", "198.51.100.7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[::1]:65535", "::1"),
    ],
)
def test_D_a_proxy_may_add_the_port(entry: str, address: str) -> None:
    """As some load balancers do; an address of version 6 is not cut at its colons."""
    assert source_address([entry], "127.0.0.1", proxy_depth=1) == address


@pytest.mark.parametrize(
    "entry", ["198.51.100.7:", "198.51.100.7:x", "[198.51.100.7", "unknown", ""]
)
def test_D_what_is_no_address_is_refused(entry: str) -> None:
    with pytest.raises(InvalidInput):
        source_address([entry], "127.0.0.1", proxy_depth=1)


def test_E8_only_our_proxies_say_that_the_caller_spoke_https() -> None:
    """The header of who comes without a proxy, or from further out than ours, is their own."""
    assert is_by_https("https", [], proxy_depth=0)
    assert is_by_https("http", ["https"], proxy_depth=1)
    assert is_by_https("http", ["HTTPS, http"], proxy_depth=2)
    assert not is_by_https("http", ["https"], proxy_depth=0)
    assert not is_by_https("http", ["https, http"], proxy_depth=1)
    assert not is_by_https("http", [], proxy_depth=1)
