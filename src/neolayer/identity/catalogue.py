"""Identity's classes of data: who may come in, and what they may do."""

from __future__ import annotations

from datetime import timedelta

from neolayer.catalogue import DataClass, SealedField

_DATABASE = "neolayer"

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "sessions",
        _DATABASE,
        "auth.sessions",
        tenant_key="tenant_id",
        personal_fields=("ip_address", "last_ip_address", "user_agent"),
    ),
    DataClass("refresh_tokens", _DATABASE, "auth.refresh_tokens", tenant_key="tenant_id"),
    DataClass("permissions", _DATABASE, "auth.permissions"),
    DataClass("roles", _DATABASE, "auth.roles", tenant_key="tenant_id"),
    DataClass("role_permissions", _DATABASE, "auth.role_permissions", tenant_key="tenant_id"),
    DataClass("user_roles", _DATABASE, "auth.user_roles", tenant_key="tenant_id"),
    DataClass("service_principals", _DATABASE, "auth.service_principals", tenant_key="tenant_id"),
    DataClass("service_roles", _DATABASE, "auth.service_roles", tenant_key="tenant_id"),
    DataClass("api_keys", _DATABASE, "auth.api_keys", tenant_key="tenant_id"),
    DataClass(
        "users",
        _DATABASE,
        "auth.users",
        tenant_key="tenant_id",
        personal_fields=("email", "username", "last_login_at"),
        known_by=("id", "email", "username"),
        sealed_fields=(
            SealedField(
                "mfa_secret",
                "mfa_key_id",
                bound_to={"tenant": "tenant_id", "user": "id"},
                purpose={"purpose": "mfa-seed"},
            ),
        ),
    ),
    DataClass("recovery_codes", _DATABASE, "auth.recovery_codes", tenant_key="tenant_id"),
    DataClass(
        "known_devices",
        _DATABASE,
        "auth.known_devices",
        retention=timedelta(days=365),
        tenant_key="tenant_id",
    ),
    DataClass(
        "login_failures",
        _DATABASE,
        "auth.login_failures",
        retention=timedelta(days=30),
        tenant_key="tenant_id",
    ),
    DataClass(
        "one_time_tokens",
        _DATABASE,
        "auth.one_time_tokens",
        retention=timedelta(days=3),
        tenant_key="tenant_id",
        personal_fields=("email",),
    ),
)
