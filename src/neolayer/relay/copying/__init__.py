"""Copying tables into a sink while changes flow: all that a sink has, or one."""
