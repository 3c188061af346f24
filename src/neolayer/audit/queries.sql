-- append_entry --
-- One entry of the current transaction; without a tenant it belongs to no tenant's chain.
INSERT INTO audit.entries (
    tenant_id, principal, user_id, action, resource, resource_id, changes,
    ip_address, user_agent, success, error_message
)
VALUES (
    %(tenant_id)s, %(principal)s, %(user_id)s, %(action)s, %(resource)s, %(resource_id)s,
    %(changes)s, %(ip_address)s::inet, %(user_agent)s, %(success)s, %(error_message)s
);
