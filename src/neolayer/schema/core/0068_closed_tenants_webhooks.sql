-- migrate:up
-- A closed tenant's endpoints are told nothing more: the relay, which calls them, must know who is
-- closed. It learns that and no more of a tenant.
GRANT SELECT (id, is_closed) ON core.tenant_standing TO neolayer_relay;

-- migrate:down
REVOKE SELECT (id, is_closed) ON core.tenant_standing FROM neolayer_relay;
