-- migrate:up
-- What people ask of a sink, from any machine: the running relay looks each second. A sink without
-- a row is as if it had the defaults. unparked counts dead letters for which there was no room.
CREATE TABLE core.relay_sinks (
    sink varchar(100) PRIMARY KEY,
    paused_at timestamptz,
    unparked bigint NOT NULL DEFAULT 0 CHECK (unparked >= 0)
);

-- Changes that a sink refused for ever, with its words; one a key, the newest. The row is what the
-- sink was sent, for whoever looks for the cause: sealed and personal fields are masked. What is
-- sent again is the row as it is then.
CREATE TABLE core.relay_dead_letters (
    sink varchar(100) NOT NULL,
    table_name varchar(130) NOT NULL,
    key text [] NOT NULL,
    database varchar(63) NOT NULL,
    version bigint NOT NULL CHECK (version >= 0),
    deleted boolean NOT NULL,
    cause varchar(1000) NOT NULL,
    row_data jsonb NOT NULL,
    tries int NOT NULL DEFAULT 1 CHECK (tries > 0),
    parked_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    replay_requested_at timestamptz,
    PRIMARY KEY (sink, table_name, key)
);

-- One table made anew in one sink. version is the oldest snapshot its ranges were read under: what
-- the sink holds from before it when all are there is no longer in PostgreSQL.
CREATE TABLE core.relay_rebuilds (
    sink varchar(100) NOT NULL,
    table_name varchar(130) NOT NULL,
    state varchar(20) NOT NULL DEFAULT 'requested'
    CHECK (state IN ('requested', 'copying', 'done', 'failed')),
    version bigint CHECK (version >= 0),
    error varchar(1000),
    requested_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    finished_at timestamptz,
    PRIMARY KEY (sink, table_name)
);

-- Its parts, so that a relay that dies goes on where it was. From low, which belongs to the range,
-- to high, which does not; NULL is the open end.
CREATE TABLE core.relay_rebuild_ranges (
    sink varchar(100) NOT NULL,
    table_name varchar(130) NOT NULL,
    number int NOT NULL CHECK (number >= 0),
    low text [],
    high text [],
    row_count bigint NOT NULL DEFAULT 0 CHECK (row_count >= 0),
    done_at timestamptz,
    PRIMARY KEY (sink, table_name, number),
    FOREIGN KEY (sink, table_name) REFERENCES core.relay_rebuilds (sink, table_name)
    ON DELETE CASCADE
);

-- Operators ask, the relay does. An operator takes letters away, and never writes one.
GRANT SELECT, INSERT, UPDATE, DELETE ON
core.relay_sinks, core.relay_dead_letters, core.relay_rebuilds, core.relay_rebuild_ranges
TO neolayer_relay;
GRANT SELECT, INSERT, UPDATE ON core.relay_sinks TO neolayer_operator;
GRANT SELECT, UPDATE (replay_requested_at), DELETE ON core.relay_dead_letters TO neolayer_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON core.relay_rebuilds TO neolayer_operator;
GRANT SELECT, DELETE ON core.relay_rebuild_ranges TO neolayer_operator;
GRANT SELECT ON
core.relay_sinks, core.relay_dead_letters, core.relay_rebuilds, core.relay_rebuild_ranges
TO neolayer_backup;

-- migrate:down
SELECT neolayer_schema.refuse_to_lose(
    'core.relay_sinks', 'core.relay_dead_letters', 'core.relay_rebuilds'
);
DROP TABLE core.relay_rebuild_ranges;
DROP TABLE core.relay_rebuilds;
DROP TABLE core.relay_dead_letters;
DROP TABLE core.relay_sinks;
