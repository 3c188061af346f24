-- migrate:up
-- An application looks up how far a read model is, and nothing else of it: a cause may quote the data
-- of any tenant, the last event's id and time are some tenant's, and certificates count all of them.
-- What concerns a tenant's own streams it reads in projection_parked_events.
REVOKE SELECT ON public.projections, public.projection_certificates
FROM neolayer_app, neolayer_relay;
GRANT SELECT (
    projection_name, status, mode, last_processed_transaction, last_processed_position
) ON public.projections TO neolayer_app;

-- A cause is why a projection stands still, and gone when it does not.
UPDATE public.projections SET cause = NULL WHERE status <> 'failed';

-- migrate:down
REVOKE SELECT (
    projection_name, status, mode, last_processed_transaction, last_processed_position
) ON public.projections FROM neolayer_app;
GRANT SELECT ON public.projections, public.projection_certificates
TO neolayer_app, neolayer_relay;
