"""The command line: parse, call one thing, answer."""
