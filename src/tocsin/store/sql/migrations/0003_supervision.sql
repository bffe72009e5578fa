-- Stops, alerts, and what the supervision of runs has found.

-- Standing orders. `stops_head` counts the changes to them, so that a process sees with one look
-- whether it knows them all.
CREATE TABLE stops (
    id TEXT NOT NULL PRIMARY KEY,
    scope TEXT NOT NULL,
    value TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    given_by TEXT NOT NULL,
    at INTEGER NOT NULL,
    feature TEXT NOT NULL,
    evidence TEXT NOT NULL,
    ended_at INTEGER,
    ended_by TEXT,
    ending TEXT,
    note TEXT NOT NULL,
    cut INTEGER NOT NULL,
    took_us INTEGER
);

CREATE INDEX stops_value ON stops (scope, value);
CREATE INDEX stops_at ON stops (at);

CREATE TABLE stops_head (
    only_row INTEGER PRIMARY KEY,
    version INTEGER NOT NULL
);

INSERT INTO stops_head (only_row, version) VALUES (1, 0);

-- One row for each fingerprint: the last word on it.
CREATE TABLE alerts (
    fingerprint TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    times INTEGER NOT NULL,
    record TEXT NOT NULL
);

CREATE INDEX alerts_at ON alerts (at);

-- What detectors found in runs; `record` is the whole finding as JSON.
CREATE TABLE findings (
    run_id TEXT NOT NULL,
    call INTEGER NOT NULL,
    detector TEXT NOT NULL,
    stage TEXT NOT NULL,
    at INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run_id, call, detector, stage)
);

CREATE INDEX findings_at ON findings (at);

-- How each run stands; `record` is the whole row as JSON.
CREATE TABLE run_watches (
    run_id TEXT NOT NULL PRIMARY KEY,
    last_at INTEGER NOT NULL,
    tokens_since_new INTEGER NOT NULL,
    record TEXT NOT NULL
);

CREATE INDEX run_watches_last_at ON run_watches (last_at);
