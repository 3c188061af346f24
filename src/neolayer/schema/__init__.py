"""What every database looks like: migration lines and the runner that applies them.

One ordered history over PostgreSQL's three databases and ClickHouse. A line is the ordered files
of one database, in the folder of that name; numbers are unique over all lines and give the order.
"""
