-- queue_checkpoint --
-- How far the queues of webhooks are filled.
SELECT c.version FROM core.relay_checkpoints AS c WHERE c.sink = %(sink)s;
