"""The same engines started by us, from wheels, on loopback."""
