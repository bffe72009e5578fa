-- Keys, cursors, the audit log and the schema's own version.

-- name: add_key
INSERT INTO keys (id, name, digest, role, features, created_at, expires_at, revoked_at, hint)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: key_by_digest
SELECT id, name, digest, role, features, created_at, expires_at, revoked_at, hint
FROM keys WHERE digest = ?;

-- name: keys
SELECT id, name, digest, role, features, created_at, expires_at, revoked_at, hint
FROM keys ORDER BY created_at, id;

-- name: revoke_key
UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL;

-- name: cursor
SELECT seq FROM cursors WHERE consumer = ?;

-- name: set_cursor
INSERT INTO cursors (consumer, seq) VALUES (?, ?)
ON CONFLICT (consumer) DO UPDATE SET seq = excluded.seq;

-- name: add_audit
INSERT INTO audit (number, at, actor, action, target, detail)
VALUES ((SELECT coalesce(max(number), 0) + 1 FROM audit), ?, ?, ?, ?, ?);

-- name: audit
SELECT at, actor, action, target, detail FROM audit ORDER BY number DESC LIMIT ?;

-- name: add_migration
INSERT INTO migrations (version, name, applied_at) VALUES (?, ?, ?);

-- name: schema_version
SELECT max(version) FROM migrations;
