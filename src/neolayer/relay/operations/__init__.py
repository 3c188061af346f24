"""What people ask of a running relay: to pause a sink, to send letters again, to rebuild a copy."""
