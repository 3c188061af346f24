"""The Python face: one object, opened and closed once, with the verbs of the command line.

async with neolayer.open(data_dir=".neolayer") as platform:
    tenant = await platform.tenants.create(name="Acme", identifier="acme", tier="pro")
    async with platform.as_tenant(tenant.id) as acme:
        user = await acme.users.create(email="ann@example.com", username="ann", password=password)
    transaction = await platform.chain.transaction("ethereum", transaction_hash)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from neolayer.audit import AuditTrail
from neolayer.chain.cache import TransactionCache
from neolayer.chain.reads import ChainReads
from neolayer.enclave import (
    Attestations,
    CollateralStore,
    Computations,
    ResultCache,
    SealedDataStore,
)
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.connections import open_pool
from neolayer.engines.redis.client import connect as connect_redis
from neolayer.events import (
    Aggregates,
    EventRooms,
    Projections,
    ReadModels,
    Subjects,
    TypedEvents,
    load_domain,
    open_event_rooms,
)
from neolayer.freshness import Store, Stream, wait_for
from neolayer.identity import (
    AccessCache,
    Client,
    Credentials,
    EmailTokens,
    Login,
    Mailer,
    PasswordHasher,
    Roles,
    Services,
    SessionPolicy,
    Sessions,
    Strangers,
    Tokens,
    User,
    Users,
)
from neolayer.identity.login_trail import Stray
from neolayer.identity.pickup import PickupFolder
from neolayer.identity.session_tokens import Kind, parse_token
from neolayer.keys import Keyring
from neolayer.platform import copied_classes, data_classes, endpoints, keyring
from neolayer.position import Position, Positions
from neolayer.relay.comparing.report import TableReport
from neolayer.relay.comparing.stores import reconcile
from neolayer.relay.state import server_notes
from neolayer.relay.where import Located, class_of, where
from neolayer.settings import Settings, load_settings
from neolayer.tenancy import (
    NOBODYS,
    CoreDatabase,
    Principal,
    Scope,
    Tenant,
    Tenants,
    open_core,
)
from neolayer.tenancy.directory import open_directory
from neolayer.tenancy.model import as_id
from neolayer.tenancy.rates import Rates
from neolayer.tenancy.requests import RequestLimiter
from neolayer.wallets import Wallets
from neolayer.webhooks import Webhooks


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A person, their new session, and what their device shows next time."""

    user: User
    tokens: Tokens
    device: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TenantView:
    """One tenant's data for one principal: every room below is bound to both."""

    scope: Scope
    tenants: Tenants
    users: Users
    login: Login
    letters: EmailTokens
    sessions: Sessions
    roles: Roles
    services: Services
    wallets: Wallets
    attestations: Attestations
    sealed_data: SealedDataStore
    computations: Computations
    events: TypedEvents
    aggregates: Aggregates
    read_models: ReadModels
    subjects: Subjects
    webhooks: Webhooks
    audit: AuditTrail

    async def position(self) -> Positions:
        """What a store must reflect to have all that was written through this view until now, in
        either database: `at_least=` and `wait_for` take it as it is.

        `acme.scope.position()` and `acme.events.position()` are those of one database alone.
        """
        return Positions.of(await self.scope.position(), await self.events.position())


@dataclass(frozen=True, slots=True)
class Platform:
    """An opened layer; made by `open_platform`. Each room is a field."""

    chain: ChainReads
    tenants: Tenants
    collateral: CollateralStore
    access: AccessCache
    requests: RequestLimiter
    strangers: Strangers
    projections: Projections
    core: CoreDatabase = field(repr=False)
    _endpoints: Endpoints = field(repr=False)
    _notes: Mapping[str, Path] = field(repr=False)
    _hasher: PasswordHasher = field(repr=False)
    _keyring: Keyring = field(repr=False)
    _mailer: Mailer = field(repr=False)
    _sessions: SessionPolicy
    _results: ResultCache = field(repr=False)
    _rooms: EventRooms = field(repr=False)

    @asynccontextmanager
    async def as_tenant(
        self, tenant: UUID, *, by: Principal | None = None
    ) -> AsyncGenerator[TenantView]:
        """One tenant's data, acting as `by` (default: an operator named python).

        Raises TenantNotFound.
        """
        found = await self.tenants.get(tenant)
        yield self.view(found.id, by=by or self.tenants.scope.by)

    def view(self, tenant: UUID, *, by: Principal) -> TenantView:
        """The same of a tenant that is known to be there, such as from a token."""
        scope = self.core.scope(tenant, by=by)
        rooms = self._rooms.tenant(scope)
        return TenantView(
            scope=scope,
            tenants=Tenants(scope),
            users=Users(scope, self._hasher, self._keyring),
            login=Login(scope, self._hasher, self._keyring),
            letters=EmailTokens(scope, self._hasher, self._mailer),
            sessions=Sessions(scope, self.access, self._sessions),
            roles=Roles(scope),
            services=Services(scope, self.access),
            wallets=Wallets(scope, self._keyring),
            attestations=Attestations(scope),
            sealed_data=SealedDataStore(scope),
            computations=Computations(scope, self._results),
            events=rooms.events,
            aggregates=rooms.aggregates,
            read_models=rooms.read_models,
            subjects=rooms.subjects,
            webhooks=Webhooks(scope, self._keyring),
            audit=AuditTrail(scope),
        )

    async def visitor(self, tenant: str) -> TenantView:
        """A tenant as somebody sees it who has not logged in.

        An absent one looks like one without people, and is as much work; what is written down about
        it stands in the trail of no tenant.
        """
        nobody = Principal.anonymous()
        outside = self.core.platform(by=nobody)
        found = await Tenants(outside).open_id(tenant)
        if found is not None:
            return self.view(found, by=nobody)
        view = self.view(NOBODYS, by=nobody)
        return replace(
            view,
            login=replace(view.login, stray=Stray(str(as_id(tenant) or tenant), outside)),
            letters=replace(view.letters, scope=outside),
        )

    async def log_in(
        self, tenant: str, name: str, offered: Credentials, client: Client
    ) -> LoggedIn:
        """A new session of whoever it is. Raises TooManyTries; then as `Login.check`, and alike
        for an absent tenant."""
        await self.strangers.admit(client)
        view = await self.visitor(tenant)
        authenticated = await view.login.check(name, offered, client)
        user = authenticated.user
        scope = view.scope.acting_as(Principal.user(user.id))
        sessions = Sessions(scope, self.access, self._sessions)
        tokens = await sessions.start(user.id, ip_address=client.ip, user_agent=client.user_agent)
        return LoggedIn(user, tokens, authenticated.device)

    async def request_reset(self, tenant: str, email: str, client: Client) -> None:
        """Have a letter sent that sets a new password, if there is somebody to get it.

        Neither the answer nor its time says whether there is, nor whether there is the tenant.
        Raises TooManyTries.
        """
        await self.strangers.admit(client)
        await (await self.visitor(tenant)).letters.request_reset(email)

    async def reset_password(
        self, tenant: str, token: str, client: Client, *, password: str
    ) -> None:
        """A new password for the token of a letter. Raises TooManyTries; then as
        `EmailTokens.reset_password`, and alike for an absent tenant."""
        await self.strangers.admit(client)
        await (await self.visitor(tenant)).letters.reset_password(token, password=password)

    async def verify_email(self, tenant: str, token: str, client: Client) -> None:
        """The token of a letter proves its address. Raises as `reset_password`."""
        await self.strangers.admit(client)
        await (await self.visitor(tenant)).letters.verify_email(token)

    async def refresh(self, refresh_token: str, client: Client) -> Tokens:
        """The next tokens of a session, in the tenant that the token names. Raises TooManyTries,
        UnknownToken."""
        await self.strangers.admit_refresh(client)
        tenant = parse_token(refresh_token, Kind.REFRESH).tenant
        sessions = self.view(tenant, by=Principal.anonymous()).sessions
        return await sessions.refresh(
            refresh_token, ip_address=client.ip, user_agent=client.user_agent
        )

    async def wait_for(
        self,
        position: Position | Positions,
        *,
        stores: Collection[Store | Stream] | None = None,
        timeout: timedelta = timedelta(seconds=10),  # noqa: ASYNC109  it says how far each is
    ) -> dict[Store | Stream, Position]:
        """Return when these stores reflect a position, with what they reflect then.

        None: all that are read. Streams and webhooks are waited for where they are named.

        Raises NotFresh at the time limit, saying how far each is, and PutBack where PostgreSQL was
        put back, so that no position says what the copies have.
        """
        return await wait_for(
            position, self._endpoints, stores=stores, timeout=timeout, notes=self._notes
        )

    async def reconcile(
        self,
        table: str | None = None,
        *,
        store: Store | None = None,
        repair: bool = False,
        deep: bool = False,
        within: timedelta = timedelta(seconds=60),
    ) -> AsyncGenerator[TableReport]:
        """Compare every copy with PostgreSQL, table by table, and with `repair` put it right.

        Of one table (`blocks`, `auth.users`) and one store where they are named; `deep` looks at
        every value. Raises InvalidInput, SettingsError, and NotFresh where a store takes longer
        than `within` to reflect what is compared.
        """
        found = reconcile(
            self._endpoints,
            copied_classes(table),
            stores=None if store is None else [store],
            repair=repair,
            deep=deep,
            patience=within,
        )
        async with aclosing(found):
            async for report in found:
                yield report

    async def where(
        self,
        kind: str,
        value: str | int | UUID,
        *,
        tenant: UUID | None = None,
        network: str | None = None,
    ) -> list[Located]:
        """The rows of a kind (`block`, `user`, `event`) that are known by a value, at most twenty,
        each with its copy in every store. With `tenant` what that tenant may see.

        Raises InvalidInput, EngineUnavailable.
        """
        of = class_of(kind, data_classes())
        return await where(self._endpoints, of, str(value), tenant=tenant, network=network)

    async def list_tenants(self, *, after: str = "", limit: int = 100) -> list[Tenant]:
        """All tenants by identifier, those that come after `after`."""
        async with open_directory(self._endpoints) as directory:
            return await directory.list(after=after, limit=limit)


@asynccontextmanager
async def open_platform(
    config: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    mailer: Mailer | None = None,
) -> AsyncGenerator[Platform]:
    """A running layer, for the length of the block; everything is closed in reverse order.

    `config` is a configuration file (default: `neolayer.toml`, if there is one), `data_dir` beats
    it. `mailer` posts the letters that verify addresses and reset passwords (default: they are put
    into the folder `letters` of the data directory, for a mail server to pick up).

    Raises SettingsError, NotRunning where an embedded layer is not up, and EngineUnavailable.
    """
    settings = load_settings(
        None if config is None else Path(config),
        data_dir=None if data_dir is None else Path(data_dir),
    )
    async with open_at(settings, endpoints(settings), mailer=mailer) as platform:
        yield platform


@asynccontextmanager
async def open_at(
    settings: Settings, at: Endpoints, *, mailer: Mailer | None = None
) -> AsyncGenerator[Platform]:
    """The same, where it is known where the engines answer."""
    size, operator = settings.postgres.pool_size, Principal.operator("python")
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(open_core(at, size=size))
        pool = await stack.enter_async_context(
            open_pool(at.postgres.dsn(Role.APP), size=size, autocommit=True, application_name="api")
        )
        redis = connect_redis(at.redis)
        stack.push_async_callback(redis.aclose)
        strangers = Strangers(
            core,
            Rates(redis),
            settings.serve.tries_per_minute,
            refreshes_per_minute=settings.serve.refreshes_per_minute,
            unknown_tokens_per_minute=settings.serve.unknown_tokens_per_minute,
        )
        stack.push_async_callback(strangers.close)
        connection = await stack.enter_async_context(pool.connection())
        keys = await stack.enter_async_context(keyring(settings))
        domain = load_domain(settings.events.modules)
        rooms = await stack.enter_async_context(open_event_rooms(at, domain, keys, size=size))
        yield Platform(
            chain=ChainReads(pool, TransactionCache(connection, redis)),
            tenants=Tenants(core.platform(by=operator)),
            collateral=CollateralStore(core.platform(by=operator)),
            access=AccessCache(core),
            requests=RequestLimiter(core, redis),
            strangers=strangers,
            projections=Projections(at, domain),
            core=core,
            _endpoints=at,
            _notes=server_notes(settings.data_dir),
            _hasher=stack.enter_context(PasswordHasher()),
            _keyring=keys,
            _results=ResultCache(redis),
            _rooms=rooms,
            _sessions=SessionPolicy.of(settings.sessions),
            _mailer=mailer or PickupFolder(settings.data_dir / "letters"),
        )
