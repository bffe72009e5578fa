-- The whole schema as of the newest migration, in SQLite's words; dialect.py says what PostgreSQL
-- calls them. A test holds this file and the migrations together.

-- Next numbers to hand out. One row; whoever appends holds it for the length of a transaction.
CREATE TABLE head (
    only_row INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    run INTEGER NOT NULL,
    content INTEGER NOT NULL,
    pack INTEGER NOT NULL,
    epoch INTEGER NOT NULL
);

INSERT INTO head (only_row, seq, run, content, pack, epoch) VALUES (1, 0, 0, 0, 0, 0);

-- Many small things compressed together: records, or contents.
CREATE TABLE packs (
    id INTEGER PRIMARY KEY,
    codec INTEGER NOT NULL,
    live INTEGER NOT NULL,
    data BLOB NOT NULL
);

-- One row for each interaction. `pack`, `at` and `size` say where its whole record lies; the other
-- columns are what is looked up without reading records. `kind` is 0 for a model call, 1 for another
-- step of a run, 2 for a tool's execution. `asked` is the node of the history that was sent, `answer`
-- the content that came back, and `tip` the name that both together have: an answer becomes a node
-- only when a later call sends it back.
CREATE TABLE interactions (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    run INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost_nano_usd INTEGER,
    tool_calls INTEGER NOT NULL,
    asked BLOB,
    answer INTEGER,
    tip BLOB,
    pack INTEGER NOT NULL,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL
);

CREATE UNIQUE INDEX interactions_id ON interactions (id);
CREATE INDEX interactions_run ON interactions (run);
CREATE INDEX interactions_started_at ON interactions (started_at);
CREATE INDEX interactions_tip ON interactions (tip);

-- One row for each run, kept up to date by every append.
CREATE TABLE runs (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    feature TEXT NOT NULL,
    source TEXT NOT NULL,
    title TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    verdict_at INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    tools_asked INTEGER NOT NULL,
    tools_executed INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    max_input_tokens INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream TEXT,
    end_user TEXT,
    key_id TEXT,
    release TEXT,
    conversation_id TEXT,
    agent TEXT
);

CREATE UNIQUE INDEX runs_id ON runs (id);
CREATE INDEX runs_last_at ON runs (last_at);

-- Every distinct message or body once. `run` is the run that brought it; a NULL `pack` means that
-- only the hash was kept. `refs` counts the nodes and interactions that refer to it.
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    blob INTEGER NOT NULL,
    run INTEGER NOT NULL,
    refs INTEGER NOT NULL,
    pack INTEGER,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL
);

CREATE UNIQUE INDEX contents_hash ON contents (hash);

-- Content that a run shares with the run that brought it; search needs it. Rows of runs that are
-- gone are taken out after a sweep, which spares every append an index.
CREATE TABLE shared (
    content INTEGER NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (content, run)
) WITHOUT ROWID;

-- Links of histories. `refs` counts children and the interactions that were asked with it.
CREATE TABLE nodes (
    hash BLOB NOT NULL PRIMARY KEY,
    parent BLOB NOT NULL,
    content INTEGER NOT NULL,
    refs INTEGER NOT NULL
) WITHOUT ROWID;

-- Which interaction asked for a tool call; `call` is 64 bits of the call id's hash.
CREATE TABLE tool_calls (
    call INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (call, seq)
) WITHOUT ROWID;

CREATE INDEX tool_calls_seq ON tool_calls (seq);

CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    digest BLOB NOT NULL,
    role TEXT NOT NULL,
    features TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    hint TEXT NOT NULL
);

CREATE UNIQUE INDEX keys_digest ON keys (digest);

CREATE TABLE cursors (
    consumer TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
);

CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL
);

-- Who folds into which folder, how far it came, and which purges its files have seen.
CREATE TABLE folds (
    folder TEXT NOT NULL PRIMARY KEY,
    folded_seq INTEGER NOT NULL,
    purged INTEGER NOT NULL,
    owner TEXT NOT NULL,
    lease_until INTEGER NOT NULL
);

-- Parquet files that count; any other file in the folder is garbage.
CREATE TABLE segments (
    folder TEXT NOT NULL,
    file TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    row_count INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (folder, file)
);

-- Deletions that segments must follow: of the records up to `max_seq`, those before
-- (`before_at`, `before_seq`) in order of start, and those listed in `seqs` (JSON). `id` is the
-- epoch that the deletion began.
CREATE TABLE purges (
    id INTEGER PRIMARY KEY,
    max_seq INTEGER NOT NULL,
    before_at INTEGER NOT NULL,
    before_seq INTEGER NOT NULL,
    seqs TEXT NOT NULL
);

-- One account for each limit, value of its scope, and run (where the limit is per run). `id` is a
-- hash of the three. `latest` is the newest window that anybody was granted something in: no
-- process goes back behind it.
CREATE TABLE ledger_accounts (
    id BLOB NOT NULL PRIMARY KEY,
    limit_name TEXT NOT NULL,
    scope TEXT NOT NULL,
    value TEXT NOT NULL,
    run_id TEXT NOT NULL,
    latest INTEGER NOT NULL,
    touched_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX ledger_accounts_limit ON ledger_accounts (limit_name, touched_at);
CREATE INDEX ledger_accounts_value ON ledger_accounts (value);
CREATE INDEX ledger_accounts_run ON ledger_accounts (run_id);
CREATE INDEX ledger_accounts_touched_at ON ledger_accounts (touched_at);

-- What an account has seen in one step of time. `uncertain` and `estimated` are parts of `spent`;
-- `extra` was added to the limit by hand.
CREATE TABLE ledger_buckets (
    account BLOB NOT NULL,
    start INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    spent_nano_usd INTEGER NOT NULL,
    spent_tokens INTEGER NOT NULL,
    spent_calls INTEGER NOT NULL,
    spent_tool_calls INTEGER NOT NULL,
    uncertain_nano_usd INTEGER NOT NULL,
    uncertain_tokens INTEGER NOT NULL,
    uncertain_calls INTEGER NOT NULL,
    uncertain_tool_calls INTEGER NOT NULL,
    estimated_nano_usd INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    estimated_calls INTEGER NOT NULL,
    estimated_tool_calls INTEGER NOT NULL,
    extra_nano_usd INTEGER NOT NULL,
    extra_tokens INTEGER NOT NULL,
    extra_calls INTEGER NOT NULL,
    extra_tool_calls INTEGER NOT NULL,
    PRIMARY KEY (account, start)
) WITHOUT ROWID;

-- What a process may spend without asking; `held` is the part of it that calls under way have
-- reserved. `wanted` is the newest recall of what is not held, `answered` the newest one that the
-- process knew of when it last gave back all that it did not need.
CREATE TABLE ledger_leases (
    account BLOB NOT NULL,
    start INTEGER NOT NULL,
    holder TEXT NOT NULL,
    nano_usd INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    held_nano_usd INTEGER NOT NULL,
    held_tokens INTEGER NOT NULL,
    held_calls INTEGER NOT NULL,
    held_tool_calls INTEGER NOT NULL,
    wanted INTEGER NOT NULL,
    answered INTEGER NOT NULL,
    PRIMARY KEY (account, start, holder)
) WITHOUT ROWID;

CREATE INDEX ledger_leases_holder ON ledger_leases (holder);

-- Processes that spend. `home` is the folder with the process's journal, `applied` the last batch
-- of its journal that is in the buckets.
CREATE TABLE ledger_holders (
    id TEXT NOT NULL PRIMARY KEY,
    home TEXT NOT NULL,
    applied INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    fenced INTEGER NOT NULL
);

-- Which run started which.
CREATE TABLE ledger_runs (
    id TEXT NOT NULL PRIMARY KEY,
    parent TEXT NOT NULL,
    linked_at INTEGER NOT NULL
);

CREATE INDEX ledger_runs_linked_at ON ledger_runs (linked_at);

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

-- Words that rows below refer to by number: features, signals, and signals with their version. Of a
-- signal whose logarithms are summed, `scale` is what its values are divided by; 0 of all others.
CREATE TABLE signal_words (
    id INTEGER PRIMARY KEY,
    word TEXT NOT NULL,
    scale DOUBLE PRECISION NOT NULL
);

CREATE UNIQUE INDEX signal_words_word ON signal_words (word);

-- The last numbers that scores and feedback were given; they are never given again.
CREATE TABLE signals_head (
    only_row INTEGER PRIMARY KEY,
    scores INTEGER NOT NULL,
    feedback INTEGER NOT NULL
);

INSERT INTO signals_head (only_row, scores, feedback) VALUES (1, 0, 0);

-- What evaluators, people and judges said of interactions, in the order in which it was said.
-- `feature` is a word; `pack`, `at` and `size` say where scores and slices lie.
CREATE TABLE scores (
    number INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    first INTEGER NOT NULL,
    pack INTEGER NOT NULL,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL
);

CREATE INDEX scores_feature ON scores (feature, started_at, seq);
CREATE INDEX scores_seq ON scores (seq);

-- All signals of a feature, or of one of its slices, summed over one step of time. `grain` is 0 for
-- five minutes, 1 for an hour, 2 for a day; others are sums that are being made again. `data` holds
-- for each signal: its word, how many values, their sum, their sum of squares, how many unjudged.
CREATE TABLE signal_sums (
    feature INTEGER NOT NULL,
    grain INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    at INTEGER NOT NULL,
    value TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (feature, grain, dimension, at, value)
) WITHOUT ROWID;

CREATE TABLE feedback (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    interaction_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    value DOUBLE PRECISION,
    comment TEXT NOT NULL,
    given_by TEXT NOT NULL,
    at INTEGER NOT NULL
);

CREATE UNIQUE INDEX feedback_id ON feedback (id);
CREATE INDEX feedback_seq ON feedback (seq);

-- Since when a person has called the level of a signal normal.
CREATE TABLE baselines (
    feature TEXT NOT NULL,
    signal TEXT NOT NULL,
    since INTEGER NOT NULL,
    given_by TEXT NOT NULL,
    at INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (feature, signal)
);

-- What detectors remember, as of the row `number` of what they are shown.
CREATE TABLE detector_states (
    name TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL
);

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
