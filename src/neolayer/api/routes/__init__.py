"""The routes, one file a subject: parse, call one thing, answer."""
