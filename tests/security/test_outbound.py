"""E11: where a URL that somebody wrote down may lead, and where it never does."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from neolayer.chain.sources.jsonrpc import Call, open_rpc
from neolayer.engines import outbound
from neolayer.engines.outbound import (
    AddressRefused,
    CheckedTransport,
    PublicOnly,
    is_refused,
    resolve,
)
from neolayer.errors import SourceError

NEVER = (
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0.0.0.0:1/",
    "http://[::]:1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
)


@pytest.mark.parametrize("url", NEVER)
async def test_E11_some_addresses_are_never_called(url: str) -> None:
    """Link-local, metadata, multicast and nobody's, however they are spelled: one refusal."""
    async with open_rpc(url, timeout_s=5) as rpc:
        with pytest.raises(SourceError, match=r"never called|not an http") as refused:
            await rpc.ask_many([Call("eth_chainId")])
    assert "try again" not in str(refused.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://127.0.0.1:1/", "ftp://x/", "//x"])
async def test_E11_only_http_is_spoken(url: str) -> None:
    """Other schemes are refused before anything is opened."""
    with pytest.raises(SourceError, match="not an http"):
        async with open_rpc(url):
            pass


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "fd12::1"])
def test_E11_nodes_on_private_networks_are_called(address: str) -> None:
    """Where people run their nodes is allowed."""
    assert not is_refused(ip_address(address))


@pytest.fixture
async def node() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that redirects every request to a metadata address, and what it was asked."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\n"
            b"content-length: 0\r\nconnection: close\r\n\r\n"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def test_E11_no_redirect_is_followed(node: tuple[int, list[bytes]]) -> None:
    """A node that sends us elsewhere is refused, after one request."""
    port, asked = node
    async with open_rpc(f"http://127.0.0.1:{port}/") as rpc:
        with pytest.raises(SourceError, match="HTTP 307"):
            await rpc.ask_many([Call("eth_chainId")])
    assert len(asked) == 1


class Answers:
    """A resolver that says something else every time; a labelled stand-in for hostile DNS."""

    def __init__(self, *addresses: str) -> None:
        self.left = list(addresses)

    async def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (self.left.pop(0), port))]


async def test_E11_a_name_is_called_at_the_address_that_was_checked(
    node: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolved once a connection: what a second answer says does not matter; the name stays."""
    port, asked = node
    answers = Answers("127.0.0.1", "169.254.169.254")
    monkeypatch.setattr(outbound, "look_up", answers)
    async with httpx.AsyncClient(transport=CheckedTransport(limits=httpx.Limits())) as client:
        answer = await client.get(f"http://node.example:{port}/")
        assert answer.status_code == 307
        assert f"host: node.example:{port}".encode() in asked[0].lower()
        assert answers.left == ["169.254.169.254"]
        with pytest.raises(httpx.ConnectError, match="never called"):
            await client.get(f"http://node.example:{port}/")


async def test_E11_one_bad_address_spoils_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a good and a bad address is refused, whichever comes first."""

    async def both(host: str, port: int, **_: Any) -> list[Any]:
        return [(2, 1, 6, "", (address, port)) for address in ("8.8.8.8", "169.254.169.254")]

    monkeypatch.setattr(outbound, "look_up", both)
    with pytest.raises(httpx.ConnectError, match="never called"):
        await resolve("node.example", 80)


async def test_E11_what_may_be_called_is_asked_with_the_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Public addresses by https alone: plain http is refused before anything is opened."""

    async def public(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]

    async def no_network(self: object, host: str, *_: Any, **__: Any) -> Any:
        raise httpcore.ConnectTimeout(host)

    monkeypatch.setattr(outbound, "look_up", public)
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", no_network)
    transport = CheckedTransport(limits=httpx.Limits(), allows=PublicOnly())
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(AddressRefused, match="never called"):
            await client.get("http://node.example/")
        with pytest.raises(httpx.ConnectTimeout, match=r"8\.8\.8\.8"):
            await client.get("https://node.example/")


class Certificate:
    """A certificate for one name, signed by itself, and the key to it."""

    def __init__(self, name: str, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        signed = (
            x509.CertificateBuilder(subject, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.pem = folder / f"{name}.pem"
        self.pem.write_bytes(secret + signed.public_bytes(Encoding.PEM))


async def test_E11_two_names_at_one_address_each_prove_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a.test proved does not count for b.test, even while a.test's connection stays open."""
    asked: list[bytes] = []
    connections: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while not reader.at_eof():
            try:
                asked.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                break
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    async def here(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    certificate = Certificate("a.test", tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate.pem)
    trusted = ssl.create_default_context(cafile=certificate.pem)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(outbound, "look_up", here)
    transport = CheckedTransport(limits=httpx.Limits(), verify=trusted)
    async with server, httpx.AsyncClient(transport=transport) as client:
        for _ in range(2):
            assert (await client.get(f"https://a.test:{port}/")).status_code == 200
        with pytest.raises(httpx.ConnectError, match=r"not valid for 'b\.test'"):
            await client.post(f"https://b.test:{port}/", content=b"for b.test alone")
    assert len(connections) == 1
    assert [b"host: a.test" in one.lower() for one in asked] == [True, True]


NOT_PUBLIC = (
    *("0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.170.2", "172.31.0.1"),
    *("192.0.0.9", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.19.0.1", "198.51.100.1"),
    *("203.0.113.1", "224.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200"),
    *("::1", "::", "::10.0.0.1", "::8.8.8.8", "fec0::1", "fe80::1", "fd00:ec2::254", "5f00::1"),
    *("100::1", "3fff::1", "2001:db8::1", "2001:2::1", "2001:10::1", "ff02::1", "4000::1"),
    *("64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "::ffff:10.0.0.1"),
    *("2002:a00:1::1", "2002:a83f:8110::1", "2001:0:808:808::f5ff:fffe", "::a9fe:a9fe"),
)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_E11_what_is_given_out_to_nobody_is_not_public(address: str) -> None:
    """Set apart by IANA, a cloud's own, or carrying such an address of version 4 inside."""
    known = ip_address(address)
    assert is_refused(known) or not PublicOnly()("https", known)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1", "168.63.1.1"]
)
def test_E11_public_addresses_are_called(address: str) -> None:
    """Also those of version 4 as networks without it write them."""
    known = ip_address(address)
    assert not is_refused(known) and PublicOnly()("https", known)


@pytest.mark.parametrize(
    "address", ["168.63.129.16", "64:ff9b::a9fe:a9fe", "::a9fe:a9fe", "fd20:ce::254"]
)
def test_E11_metadata_is_never_called_however_it_is_carried(address: str) -> None:
    """Not even where operators write the addresses."""
    assert is_refused(ip_address(address))
