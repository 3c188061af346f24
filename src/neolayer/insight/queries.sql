-- tenant_id --
-- The id of a living tenant, by its id or its identifier.
SELECT id FROM core.tenants
WHERE (id::text = %(tenant)s OR identifier = %(tenant)s) AND deleted_at IS NULL;

-- be_owner --
-- Only the owner may read the key that signs contexts.
SET LOCAL ROLE neolayer_owner;

-- assume_context --
-- Be a tenant for the rest of this transaction; the database checks the signature.
SELECT set_config('neolayer.context', %(context)s, true);
