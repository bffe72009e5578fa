-- The ledger: accounts, what was spent, and who holds a lease on what is left.

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
