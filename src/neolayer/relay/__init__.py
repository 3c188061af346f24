"""The commit log, read once and carried to every derived store."""
