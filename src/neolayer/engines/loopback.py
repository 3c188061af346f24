"""This machine's own addresses, and keeping a proxy out of the way to them."""

from __future__ import annotations

import ipaddress
import os


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def spare_the_proxy(host: str) -> None:
    """Add the host to NO_PROXY of this process: an HTTP proxy that the environment names would be
    told the password, and could not reach the server anyway."""
    for name in ("no_proxy", "NO_PROXY"):
        known = os.environ.get(name, "")
        if known != "*" and host not in known.split(","):
            os.environ[name] = f"{known},{host}" if known else host
