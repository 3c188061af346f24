"""Where blocks come from: files or a JSON-RPC endpoint."""
