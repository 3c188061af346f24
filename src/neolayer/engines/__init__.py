"""One room per engine: rows, keys, bytes, plain sessions; never tenants."""
