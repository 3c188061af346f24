"""Which position a derived store reflects, and waiting for one."""
