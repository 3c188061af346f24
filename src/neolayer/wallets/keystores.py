"""Keystore v3: the encrypted key file of Ethereum's clients (Web3 Secret Storage).

The file says how much work its key derivation is, so a hostile one could ask for a terabyte. What
it asks for is therefore checked against bounds first, which admit what geth, Parity and the
specification's own examples write; `derivations.py` says when it is done.
"""

from __future__ import annotations

import json
from typing import Any, Literal, cast
from uuid import UUID

from neolayer.errors import InvalidInput
from neolayer.wallets.addresses import EVM
from neolayer.wallets.derivations import derive
from neolayer.wallets.model import KeystoreError, extra_missing
from neolayer.wallets.private_keys import PrivateKey
from neolayer.wallets.recursion_limit import recursion_limit_kept

Kdf = Literal["scrypt", "pbkdf2"]
MAX_KEYSTORE_BYTES = 16_384
MAX_PASSWORD_BYTES = 4096
MIN_EXPORT_PASSWORD = 12
SCRYPT_N, PBKDF2_C = 1 << 18, 1_000_000  # what is written
MAX_SCRYPT_BYTES = 1 << 28  # 128 * n * r
MAX_SCRYPT_WORK = 1 << 22  # n * r * p; SCRYPT_N at r = 8, p = 1 is half of it
MAX_PBKDF2_C = 4_000_000


async def open_keystore(
    text: str | bytes, password: str, *, tenant: UUID | None = None
) -> PrivateKey:
    """The private key in a keystore, when it is the tenant's turn.

    Raises KeystoreError for a wrong password and a bad file, TooManyDerivations.
    """
    document = _read(text)
    secret = password_bytes(password)
    return await derive(_decrypt, document, secret, tenant=tenant)


async def make_keystore(
    key: PrivateKey, password: str, *, kdf: Kdf = "scrypt", tenant: UUID | None = None
) -> str:
    """A keystore of the key, as JSON text, when it is the tenant's turn.

    Raises InvalidInput for a password that is too short, TooManyDerivations.
    """
    export_password(password)
    if kdf not in ("scrypt", "pbkdf2"):
        raise InvalidInput(f"{str(kdf)[:40]!r} is neither scrypt nor pbkdf2")
    return await derive(_encrypt, key, password_bytes(password), kdf, tenant=tenant)


def export_password(password: str) -> None:
    """Raises InvalidInput where a password is too short for a file that may go anywhere."""
    if len(password) < MIN_EXPORT_PASSWORD:
        raise InvalidInput(
            f"a keystore's password has at least {MIN_EXPORT_PASSWORD} characters",
            hint="whoever has the file can try passwords for ever",
        )


def require_library() -> None:
    """Raises NotSupported where the extra is not installed."""
    _library()


def _encrypt(key: PrivateKey, password: bytes, kdf: Kdf) -> str:
    create = _library().create_keyfile_json
    work = SCRYPT_N if kdf == "scrypt" else PBKDF2_C
    made = create(key.reveal(), password, kdf=kdf, iterations=work, salt_size=32)
    return json.dumps(made | {"address": key.address()[2:]})


def _decrypt(document: dict[str, Any], password: bytes) -> PrivateKey:
    decode = _library().decode_keyfile_json
    raw = _or_none(decode, document, password)
    if raw is None:
        raise KeystoreError
    key = PrivateKey(raw.rjust(32, b"\0"), EVM)
    named = document.get("address")
    if named is not None and named.lower().removeprefix("0x") != key.address()[2:]:
        raise KeystoreError("the keystore names another address than that of its key")
    return key


def _or_none(decode: Any, document: dict[str, Any], password: bytes) -> bytes | None:
    """What the library says of a wrong password is passed over: one answer for all of it."""
    try:
        return bytes(decode(document, password))
    except Exception:
        return None


def _library() -> Any:
    try:
        with recursion_limit_kept():
            import eth_keyfile
    except ImportError:
        raise extra_missing("a keystore") from None
    return eth_keyfile


def password_bytes(text: str) -> bytes:
    """A password's exact bytes. Raises InvalidInput where it is empty or too long."""
    secret = text.encode("utf-8", "surrogatepass")
    if not 0 < len(secret) <= MAX_PASSWORD_BYTES:
        raise InvalidInput(f"a keystore's password has 1 to {MAX_PASSWORD_BYTES} bytes")
    return secret


# What a file may ask for


def _read(text: str | bytes) -> dict[str, Any]:
    """The file's own fields, each of the form it must have. Raises KeystoreError."""
    size = len(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    if size > MAX_KEYSTORE_BYTES:
        raise KeystoreError(f"a keystore is no longer than {MAX_KEYSTORE_BYTES} bytes")
    try:
        document: Any = json.loads(text, object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise KeystoreError(
            "this is not a keystore: it is not JSON, or names stand twice"
        ) from None
    if not isinstance(document, dict):
        raise KeystoreError("this is not a keystore: it is not a JSON object")
    document = cast("dict[str, Any]", document)
    if _integer(document, "version", 3, 3) != 3:
        raise KeystoreError("only version 3 keystores are read")
    crypto = _object(document, "crypto")
    if crypto.get("cipher") != "aes-128-ctr":
        raise KeystoreError("the keystore's cipher is not aes-128-ctr")
    kept: dict[str, Any] = {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": _hex(_object(crypto, "cipherparams"), "iv", 1, 16)},
        "ciphertext": _hex(crypto, "ciphertext", 1, 32),
        "mac": _hex(crypto, "mac", 32, 32),
        "kdf": crypto.get("kdf"),
        "kdfparams": _parameters(crypto.get("kdf"), _object(crypto, "kdfparams")),
    }
    named = document.get("address")
    if named is not None and not isinstance(named, str):
        raise KeystoreError("the keystore's address is not text")
    return {"version": 3, "crypto": kept, "address": named or None}


def _parameters(kdf: Any, asked: dict[str, Any]) -> dict[str, Any]:
    common = {"dklen": _integer(asked, "dklen", 32, 32), "salt": _hex(asked, "salt", 1, 64)}
    match kdf:
        case "scrypt":
            return common | _scrypt(asked)
        case "pbkdf2" if asked.get("prf") == "hmac-sha256":
            return common | {"prf": "hmac-sha256", "c": _integer(asked, "c", 1, MAX_PBKDF2_C)}
        case _:
            raise KeystoreError("the keystore's kdf is neither scrypt nor pbkdf2 of hmac-sha256")


def _scrypt(asked: dict[str, Any]) -> dict[str, int]:
    n, r = _integer(asked, "n", 2, 1 << 20), _integer(asked, "r", 1, 64)
    p = _integer(asked, "p", 1, 64)
    if n & (n - 1):
        raise KeystoreError("the keystore's n is not a power of two")
    if 128 * n * r > MAX_SCRYPT_BYTES or n * r * p > MAX_SCRYPT_WORK:
        raise KeystoreError("the keystore asks for more memory or work than is given")
    return {"n": n, "r": r, "p": p}


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with its names in lower case (some clients write "Crypto"), each once."""
    found = {name.lower(): value for name, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    found = parent.get(name)
    if not isinstance(found, dict):
        raise KeystoreError(f"the keystore has no {name}")
    return cast("dict[str, Any]", found)


def _integer(parent: dict[str, Any], name: str, lowest: int, highest: int) -> int:
    found = parent.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not lowest <= found <= highest:
        allowed = str(lowest) if lowest == highest else f"from {lowest} to {highest}"
        raise KeystoreError(f"the keystore's {name} is not {allowed}")
    return found


def _hex(parent: dict[str, Any], name: str, shortest: int, longest: int) -> str:
    found = parent.get(name)
    digits = found.removeprefix("0x") if isinstance(found, str) else ""
    digits = digits.rjust(len(digits) + len(digits) % 2, "0")
    try:
        fits = shortest <= len(bytes.fromhex(digits)) <= longest
    except ValueError:
        fits = False
    if not fits or not digits.isalnum():
        raise KeystoreError(f"the keystore's {name} is not hexadecimal of the right length")
    return digits
