-- network --
-- A network by its name.
SELECT n.id, n.name, n.network_type, n.chain_id
FROM blockchain.networks AS n
WHERE n.name = %(name)s;

-- insert_wallet --
-- A new wallet; no row where the tenant has one of this address already.
INSERT INTO blockchain.wallets (
    tenant_id, user_id, network_id, address, public_key, encrypted_private_key, key_id,
    wallet_type, is_hardware, name
)
VALUES (
    %(tenant_id)s, %(user_id)s, %(network_id)s, %(address)s, %(public_key)s,
    %(encrypted_private_key)s, %(key_id)s, %(wallet_type)s, %(is_hardware)s, %(name)s
)
ON CONFLICT ON CONSTRAINT wallets_address_unique DO NOTHING
RETURNING id, created_at;

-- wallet --
-- One wallet of the tenant.
SELECT
    w.id, n.id, n.name, n.network_type, n.chain_id, w.address, w.name, w.wallet_type,
    w.is_hardware, w.encrypted_private_key IS NOT NULL, w.public_key, w.user_id, w.key_id,
    w.created_at
FROM blockchain.wallets AS w
JOIN blockchain.networks AS n ON n.id = w.network_id
WHERE w.id = %(wallet_id)s;

-- wallet_of_address --
-- The tenant's wallet of an address.
SELECT
    w.id, n.id, n.name, n.network_type, n.chain_id, w.address, w.name, w.wallet_type,
    w.is_hardware, w.encrypted_private_key IS NOT NULL, w.public_key, w.user_id, w.key_id,
    w.created_at
FROM blockchain.wallets AS w
JOIN blockchain.networks AS n ON n.id = w.network_id
WHERE n.name = %(network)s AND w.address = %(address)s;

-- wallets --
-- A page of the tenant's wallets, oldest first. The instant after which it begins is asked of the row
-- itself: SQL may have written one that no caller can hand back. A wallet deleted meanwhile has left
-- what was read of it.
SELECT
    w.id, n.id, n.name, n.network_type, n.chain_id, w.address, w.name, w.wallet_type,
    w.is_hardware, w.encrypted_private_key IS NOT NULL, w.public_key, w.user_id, w.key_id,
    w.created_at
FROM blockchain.wallets AS w
JOIN blockchain.networks AS n ON n.id = w.network_id
WHERE
    (w.created_at, w.id) > (
        coalesce(
            (SELECT c.created_at FROM blockchain.wallets AS c WHERE c.id = %(after_id)s),
            %(after_time)s::timestamptz
        ),
        %(after_id)s
    )
    AND (%(network)s::text IS NULL OR n.name = %(network)s)
    AND (%(user_id)s::uuid IS NULL OR w.user_id = %(user_id)s)
ORDER BY w.created_at, w.id
LIMIT %(limit)s;

-- sealed_key --
-- A wallet with its sealed private key, for whoever is about to use it.
SELECT
    w.id, n.id, n.name, n.network_type, n.chain_id, w.address, w.name, w.wallet_type,
    w.is_hardware, w.encrypted_private_key IS NOT NULL, w.public_key, w.user_id, w.key_id,
    w.created_at, w.encrypted_private_key
FROM blockchain.wallets AS w
JOIN blockchain.networks AS n ON n.id = w.network_id
WHERE w.id = %(wallet_id)s;

-- hold_wallet --
-- Whether a wallet is still there, and keep it there until the end of the transaction.
SELECT w.id FROM blockchain.wallets AS w WHERE w.id = %(wallet_id)s FOR KEY SHARE;

-- update_wallet --
-- What people call a wallet; a field is changed where its flag says so.
UPDATE blockchain.wallets
SET
    name = CASE WHEN %(set_name)s THEN %(name)s ELSE name END,
    wallet_type = CASE WHEN %(set_wallet_type)s THEN %(wallet_type)s ELSE wallet_type END,
    user_id = CASE WHEN %(set_user_id)s THEN %(user_id)s::uuid ELSE user_id END
WHERE id = %(wallet_id)s
RETURNING id;

-- delete_wallet --
-- Take a wallet away; one with a key only where its loss is meant.
DELETE FROM blockchain.wallets
WHERE id = %(wallet_id)s AND (encrypted_private_key IS NULL OR %(destroy_key)s)
RETURNING address;
