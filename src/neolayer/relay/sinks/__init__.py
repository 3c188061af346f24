"""One file per destination of the relay."""
