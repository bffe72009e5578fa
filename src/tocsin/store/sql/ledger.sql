-- Accounts, buckets, leases and holders.

-- name: ledger_holder
SELECT applied, fenced FROM ledger_holders WHERE id = ?;

-- name: ledger_holder_put
INSERT INTO ledger_holders (id, home, applied, seen_at, fenced) VALUES (?, ?, ?, ?, 0)
ON CONFLICT (id) DO UPDATE
SET applied = excluded.applied, seen_at = excluded.seen_at, fenced = 0;

-- name: ledger_holder_fence
UPDATE ledger_holders SET fenced = 1 WHERE id = ?;

-- name: ledger_holder_drop
DELETE FROM ledger_holders WHERE id = ?;

-- name: ledger_holders
SELECT id, home, seen_at FROM ledger_holders;

-- name: ledger_account_put
INSERT INTO ledger_accounts (id, limit_name, scope, value, run_id, latest, touched_at)
VALUES {rows:7}
ON CONFLICT (id) DO UPDATE SET touched_at =
CASE WHEN excluded.touched_at > ledger_accounts.touched_at
THEN excluded.touched_at ELSE ledger_accounts.touched_at END;

-- name: ledger_account_advance
UPDATE ledger_accounts SET latest = ? WHERE id = ? AND latest < ?;

-- name: ledger_latest
SELECT id, latest FROM ledger_accounts WHERE id IN ({list});

-- name: ledger_accounts
SELECT id, limit_name, scope, value, run_id, latest, touched_at FROM ledger_accounts
WHERE limit_name = ? ORDER BY touched_at DESC, id LIMIT ?;

-- name: ledger_accounts_of_value
SELECT id, limit_name, scope, value, run_id, latest, touched_at FROM ledger_accounts
WHERE limit_name = ? AND value = ? ORDER BY touched_at DESC, id LIMIT ?;

-- name: ledger_accounts_of_run
SELECT id, limit_name, scope, value, run_id, latest, touched_at FROM ledger_accounts
WHERE limit_name = ? AND run_id = ? ORDER BY touched_at DESC, id LIMIT ?;

-- name: ledger_accounts_of_both
SELECT id, limit_name, scope, value, run_id, latest, touched_at FROM ledger_accounts
WHERE limit_name = ? AND value = ? AND run_id = ? ORDER BY touched_at DESC, id LIMIT ?;

-- name: ledger_bucket_open
INSERT INTO ledger_buckets VALUES {rows:19} ON CONFLICT (account, start) DO NOTHING;

-- name: ledger_bucket_add
INSERT INTO ledger_buckets VALUES {rows:19} ON CONFLICT (account, start) DO UPDATE SET
spent_nano_usd = ledger_buckets.spent_nano_usd + excluded.spent_nano_usd,
spent_tokens = ledger_buckets.spent_tokens + excluded.spent_tokens,
spent_calls = ledger_buckets.spent_calls + excluded.spent_calls,
spent_tool_calls = ledger_buckets.spent_tool_calls + excluded.spent_tool_calls,
uncertain_nano_usd = ledger_buckets.uncertain_nano_usd + excluded.uncertain_nano_usd,
uncertain_tokens = ledger_buckets.uncertain_tokens + excluded.uncertain_tokens,
uncertain_calls = ledger_buckets.uncertain_calls + excluded.uncertain_calls,
uncertain_tool_calls = ledger_buckets.uncertain_tool_calls + excluded.uncertain_tool_calls,
estimated_nano_usd = ledger_buckets.estimated_nano_usd + excluded.estimated_nano_usd,
estimated_tokens = ledger_buckets.estimated_tokens + excluded.estimated_tokens,
estimated_calls = ledger_buckets.estimated_calls + excluded.estimated_calls,
estimated_tool_calls = ledger_buckets.estimated_tool_calls + excluded.estimated_tool_calls,
extra_nano_usd = ledger_buckets.extra_nano_usd + excluded.extra_nano_usd,
extra_tokens = ledger_buckets.extra_tokens + excluded.extra_tokens,
extra_calls = ledger_buckets.extra_calls + excluded.extra_calls,
extra_tool_calls = ledger_buckets.extra_tool_calls + excluded.extra_tool_calls;

-- name: ledger_buckets
SELECT * FROM ledger_buckets WHERE account IN ({list}) AND start >= ?;

-- name: ledger_lease_put
INSERT INTO ledger_leases VALUES {rows:13} ON CONFLICT (account, start, holder) DO UPDATE SET
nano_usd = excluded.nano_usd, tokens = excluded.tokens, calls = excluded.calls,
tool_calls = excluded.tool_calls, held_nano_usd = excluded.held_nano_usd,
held_tokens = excluded.held_tokens, held_calls = excluded.held_calls,
held_tool_calls = excluded.held_tool_calls,
answered = CASE WHEN excluded.answered > 0 THEN excluded.answered
ELSE ledger_leases.answered END;

-- name: ledger_lease_grant
UPDATE ledger_leases SET nano_usd = nano_usd + ?, tokens = tokens + ?, calls = calls + ?,
tool_calls = tool_calls + ?, wanted = 0, answered = 0
WHERE account = ? AND start = ? AND holder = ?;

-- name: ledger_lease_drop
DELETE FROM ledger_leases WHERE account = ? AND start = ? AND holder = ?;

-- name: ledger_leases
SELECT * FROM ledger_leases WHERE account IN ({list}) AND start >= ?;

-- name: ledger_leases_of
SELECT * FROM ledger_leases WHERE holder = ?;

-- name: ledger_leases_drop
DELETE FROM ledger_leases WHERE holder = ?;

-- name: ledger_lease_want
UPDATE ledger_leases SET wanted = ? WHERE account = ? AND start = ? AND holder = ?;

-- name: ledger_wanted
SELECT account, start, wanted FROM ledger_leases WHERE holder = ? AND wanted > answered;

-- name: ledger_link
INSERT INTO ledger_runs (id, parent, linked_at) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING;

-- name: ledger_parent
SELECT parent FROM ledger_runs WHERE id = ?;

-- name: ledger_settle
UPDATE ledger_buckets SET spent_nano_usd = spent_nano_usd - ?, spent_tokens = spent_tokens - ?,
spent_calls = spent_calls - ?, spent_tool_calls = spent_tool_calls - ?, uncertain_nano_usd = 0,
uncertain_tokens = 0, uncertain_calls = 0, uncertain_tool_calls = 0
WHERE account = ? AND start = ?;

-- name: ledger_prune_buckets
DELETE FROM ledger_buckets WHERE account IN
(SELECT id FROM ledger_accounts WHERE run_id <> '' AND touched_at < ?)
AND account NOT IN (SELECT account FROM ledger_leases);

-- name: ledger_prune_accounts
DELETE FROM ledger_accounts WHERE run_id <> '' AND touched_at < ?
AND id NOT IN (SELECT account FROM ledger_leases);

-- name: ledger_prune_old
DELETE FROM ledger_buckets WHERE start > 0 AND start < ?;

-- name: ledger_prune_runs
DELETE FROM ledger_runs WHERE linked_at < ?;

-- name: ledger_accounts_of_user
SELECT id, limit_name, scope, value, run_id, latest, touched_at FROM ledger_accounts
WHERE value = ? AND scope = 'end_user';

-- name: ledger_audit
SELECT number, target FROM audit WHERE action IN ('limit.raise', 'limit.reconcile');

-- name: ledger_forget_audit
UPDATE audit SET target = ? WHERE number = ?;

-- name: ledger_forget_leases
DELETE FROM ledger_leases WHERE account IN
(SELECT id FROM ledger_accounts WHERE value = ? AND scope = 'end_user');

-- name: ledger_forget_buckets
DELETE FROM ledger_buckets WHERE account IN
(SELECT id FROM ledger_accounts WHERE value = ? AND scope = 'end_user');

-- name: ledger_forget_accounts
DELETE FROM ledger_accounts WHERE value = ? AND scope = 'end_user';
