-- migrate:up
-- Whether the types of a subscription are known is a fact of its own: one from before 0097 takes them
-- from its next consumer, who may well not know where it began, and was noted as having begun at the
-- beginning. Its start stays unknown until somebody names it.
ALTER TABLE public.subscriptions
ADD COLUMN types_known boolean NOT NULL DEFAULT false;

-- migrate:down
ALTER TABLE public.subscriptions
DROP COLUMN types_known;
