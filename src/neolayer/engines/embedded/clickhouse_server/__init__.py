"""ClickHouse without a server: one process owns a chDB session and speaks ClickHouse's HTTP.

chDB is the real ClickHouse engine as a library. It locks its folder, so only one process may hold
it. This process does, and any number of unmodified clients talk to it over loopback:

    python -m neolayer.engines.embedded.clickhouse_server --path DIR --password-file FILE

How a request travels: `app` (sockets, limits) -> `request` (what is asked, by whom) -> `runner`
(admission, the right link) -> `select`, `insert` or `command` -> `engine` (the only file that
touches chDB) -> `reply` (buffer, compress, stream).
"""
