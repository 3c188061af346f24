"""Programs that load blocks, each in a process (and, for peers, an environment) of its own."""
