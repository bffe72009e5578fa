-- Operations: their events, steps, idempotency keys, conversations and deliveries.

-- One row for each operation. `record` is all of it (MessagePack), without the number of events; the
-- other columns are what is looked up and compared without reading records.
CREATE TABLE operations (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    feature TEXT NOT NULL,
    status TEXT NOT NULL,
    outcome TEXT,
    key_id TEXT,
    end_user TEXT,
    run_id TEXT,
    parent_id TEXT,
    conversation_id TEXT,
    created_at INTEGER NOT NULL,
    deadline_at INTEGER,
    expires_at INTEGER,
    cancel_at INTEGER,
    owner TEXT,
    events INTEGER NOT NULL,
    record BLOB NOT NULL
);

CREATE UNIQUE INDEX operations_id ON operations (id);
CREATE INDEX operations_created_at ON operations (created_at, number);
CREATE INDEX operations_live ON operations (status, number) WHERE status <> 'ended';
CREATE INDEX operations_deadline_at ON operations (deadline_at) WHERE status <> 'ended';
CREATE INDEX operations_cancel_at ON operations (cancel_at)
WHERE status <> 'ended' AND cancel_at IS NOT NULL;
CREATE INDEX operations_expires_at ON operations (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX operations_end_user ON operations (end_user) WHERE end_user IS NOT NULL;
CREATE INDEX operations_run_id ON operations (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX operations_parent_id ON operations (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX operations_conversation ON operations (conversation_id)
WHERE conversation_id IS NOT NULL;

-- What each was asked for, and what came of it. These and all `data` below: a byte that names the
-- codec, then the bytes, compressed where that pays.
CREATE TABLE operation_bodies (
    operation INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);

CREATE TABLE operation_results (
    operation INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);

-- Consecutive events of one operation. `place` is the operation's number times 16,777,216 and the
-- number of its first event.
CREATE TABLE operation_events (
    place INTEGER PRIMARY KEY,
    events INTEGER NOT NULL,
    data BLOB NOT NULL
);

-- Processes that work, and when each last showed that it is alive.
CREATE TABLE operation_owners (
    id TEXT NOT NULL PRIMARY KEY,
    beat_at INTEGER NOT NULL
);

-- What is done at most once. `scope` is an operation's id, or what stands in its place.
CREATE TABLE operation_steps (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    effect INTEGER NOT NULL,
    state TEXT NOT NULL,
    arguments BLOB NOT NULL,
    result BLOB,
    begun_at INTEGER NOT NULL,
    ended_at INTEGER,
    owner TEXT NOT NULL,
    asked INTEGER NOT NULL
);

CREATE UNIQUE INDEX operation_steps_id ON operation_steps (id);
CREATE INDEX operation_steps_scope ON operation_steps (scope, number);
CREATE INDEX operation_steps_state ON operation_steps (state, number);

-- Requests by the name that their caller gave them, with their answers.
CREATE TABLE idempotency_keys (
    principal TEXT NOT NULL,
    name TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    state TEXT NOT NULL,
    owner TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    call_id TEXT NOT NULL,
    status INTEGER,
    headers BLOB NOT NULL,
    body BLOB NOT NULL,
    replays INTEGER NOT NULL,
    PRIMARY KEY (principal, name)
);

CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);
CREATE INDEX idempotency_keys_call_id ON idempotency_keys (call_id);

-- `items` counts the items ever added, `held_by` is the operation that is at work on it.
CREATE TABLE conversations (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    key_id TEXT,
    feature TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    items INTEGER NOT NULL,
    held_by TEXT
);

CREATE UNIQUE INDEX conversations_id ON conversations (id);
CREATE INDEX conversations_held_by ON conversations (held_by) WHERE held_by IS NOT NULL;

-- `place` is the conversation's number times 16,777,216 and the item's position.
CREATE TABLE conversation_items (
    place INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    operation_id TEXT,
    data BLOB NOT NULL
);

CREATE UNIQUE INDEX conversation_items_id ON conversation_items (conversation, id);
CREATE INDEX conversation_items_operation ON conversation_items (operation_id)
WHERE operation_id IS NOT NULL;

-- Messages to webhooks. Until `taken_until` a process is at work on it.
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    url TEXT NOT NULL,
    type TEXT NOT NULL,
    payload BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    operation_id TEXT,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    last_at INTEGER,
    last_status INTEGER,
    last_error TEXT NOT NULL,
    ended_at INTEGER,
    taken_by TEXT NOT NULL,
    taken_until INTEGER NOT NULL
);

CREATE UNIQUE INDEX deliveries_id ON deliveries (id);
CREATE INDEX deliveries_state ON deliveries (state, next_at);
CREATE INDEX deliveries_operation ON deliveries (operation_id) WHERE operation_id IS NOT NULL;

-- URLs that are told nothing any more.
CREATE TABLE disabled_endpoints (
    url TEXT NOT NULL PRIMARY KEY,
    disabled_at INTEGER NOT NULL,
    reason TEXT NOT NULL
);
