-- migrate:up
-- As in 0030_tenancy.sql, and a session that was told another limit of its transactions is not clean either:
-- a role's own keeps every tenant's readers from waiting for one (decision 29). Servers before
-- PostgreSQL 17 have no such setting.
CREATE OR REPLACE FUNCTION core.session_state() RETURNS text
LANGUAGE sql STABLE
RETURN session_user || '|' || current_user
|| CASE WHEN coalesce(current_setting('neolayer.context', true), '') <> '' THEN '|context' ELSE '' END
|| '|' || current_setting('search_path') || '|' || current_setting('row_security')
|| '|' || current_setting('TimeZone') || '|' || current_setting('DateStyle')
|| '|' || current_setting('IntervalStyle') || '|' || current_setting('client_encoding')
|| '|' || current_setting('bytea_output') || '|' || current_setting('extra_float_digits')
|| '|' || current_setting('standard_conforming_strings')
|| '|' || current_setting('default_transaction_isolation')
|| '|' || current_setting('default_transaction_read_only')
|| '|' || current_setting('synchronous_commit')
|| '|' || current_setting('statement_timeout') || '|' || current_setting('lock_timeout')
|| '|' || current_setting('idle_in_transaction_session_timeout')
|| '|' || coalesce(current_setting('transaction_timeout', true), '');

-- migrate:down
CREATE OR REPLACE FUNCTION core.session_state() RETURNS text
LANGUAGE sql STABLE
RETURN session_user || '|' || current_user
|| CASE WHEN coalesce(current_setting('neolayer.context', true), '') <> '' THEN '|context' ELSE '' END
|| '|' || current_setting('search_path') || '|' || current_setting('row_security')
|| '|' || current_setting('TimeZone') || '|' || current_setting('DateStyle')
|| '|' || current_setting('IntervalStyle') || '|' || current_setting('client_encoding')
|| '|' || current_setting('bytea_output') || '|' || current_setting('extra_float_digits')
|| '|' || current_setting('standard_conforming_strings')
|| '|' || current_setting('default_transaction_isolation')
|| '|' || current_setting('default_transaction_read_only')
|| '|' || current_setting('synchronous_commit')
|| '|' || current_setting('statement_timeout') || '|' || current_setting('lock_timeout')
|| '|' || current_setting('idle_in_transaction_session_timeout');
