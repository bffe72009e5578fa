-- Stops, alerts, findings and the watches of runs.

-- name: add_stop
INSERT INTO stops (
    id, scope, value, action, reason, given_by, at, feature, evidence, ended_at, ended_by, ending,
    note, cut, took_us
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: stop_standing_for
SELECT
    id, scope, value, action, reason, given_by, at, feature, evidence, ended_at, ended_by, ending,
    note, cut, took_us
FROM stops
WHERE scope = ? AND value = ? AND action IN ('kill', ?) AND (ended_at IS NULL OR ending = 'ended')
ORDER BY CASE action WHEN 'kill' THEN 0 ELSE 1 END, at, id LIMIT 1;

-- name: end_stop
UPDATE stops SET ending = ?, ended_by = ?, ended_at = ?, note = ? WHERE id = ? AND ended_at IS NULL;

-- name: note_cut
UPDATE stops SET
    cut = cut + ?,
    took_us = CASE WHEN took_us > ? THEN took_us ELSE ? END
WHERE id = ?;

-- name: next_stops_version
UPDATE stops_head SET version = version + 1;

-- name: stops_version
SELECT version FROM stops_head;

-- name: stop
SELECT
    id, scope, value, action, reason, given_by, at, feature, evidence, ended_at, ended_by, ending,
    note, cut, took_us
FROM stops WHERE id = ?;

-- name: stops
SELECT
    id, scope, value, action, reason, given_by, at, feature, evidence, ended_at, ended_by, ending,
    note, cut, took_us
FROM stops WHERE {where} ORDER BY at DESC, id DESC LIMIT ?;

-- name: alert_state
SELECT state, at, first_at, times FROM alerts WHERE fingerprint = ?;

-- name: set_alert
INSERT INTO alerts (fingerprint, state, at, first_at, times, record) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (fingerprint) DO UPDATE SET
    state = excluded.state, at = excluded.at, first_at = excluded.first_at,
    times = excluded.times, record = excluded.record;

-- name: alerts
SELECT record, first_at, times FROM alerts ORDER BY at DESC, fingerprint LIMIT ?;

-- name: alerts_firing
SELECT record, first_at, times FROM alerts WHERE state = 'firing'
ORDER BY at DESC, fingerprint LIMIT ?;

-- name: all_alerts
SELECT fingerprint, record FROM alerts;

-- name: delete_alert
DELETE FROM alerts WHERE fingerprint = ?;

-- name: set_findings
INSERT INTO findings (run_id, call, detector, stage, at, record) VALUES {rows:6}
ON CONFLICT (run_id, call, detector, stage) DO UPDATE SET
    at = excluded.at, record = excluded.record;

-- name: findings_of_run
SELECT record FROM findings WHERE run_id = ? ORDER BY call, at, detector, stage LIMIT ?;

-- name: newest_findings
SELECT record FROM findings ORDER BY at DESC, run_id, call DESC, detector, stage LIMIT ?;

-- name: set_watches
INSERT INTO run_watches (run_id, last_at, tokens_since_new, record) VALUES {rows:4}
ON CONFLICT (run_id) DO UPDATE SET
    last_at = excluded.last_at, tokens_since_new = excluded.tokens_since_new,
    record = excluded.record;

-- name: watches
SELECT record FROM run_watches WHERE last_at >= ?
ORDER BY tokens_since_new DESC, run_id LIMIT ?;

-- name: watch
SELECT record FROM run_watches WHERE run_id = ?;

-- name: delete_findings_of
DELETE FROM findings WHERE run_id IN ({list});

-- name: delete_watches_of
DELETE FROM run_watches WHERE run_id IN ({list});

-- name: blank_stops_of
UPDATE stops SET
    evidence = '[]',
    reason = CASE
        WHEN substr(given_by, 1, 7) = 'policy:' THEN 'the calls that showed it were deleted'
        ELSE reason
    END
WHERE scope = 'run' AND evidence <> '[]' AND value IN ({list});

-- name: watched_run_ids
SELECT id FROM runs WHERE key IN ({list});

-- name: delete_old_findings
DELETE FROM findings WHERE (run_id, call, detector, stage) IN (
    SELECT run_id, call, detector, stage FROM findings WHERE at < ? LIMIT ?
);

-- name: delete_old_watches
DELETE FROM run_watches WHERE run_id IN (
    SELECT run_id FROM run_watches WHERE last_at < ? LIMIT ?
);

-- name: delete_old_alerts
DELETE FROM alerts WHERE fingerprint IN (
    SELECT fingerprint FROM alerts WHERE state = 'resolved' AND at < ? LIMIT ?
);

-- name: delete_old_stops
DELETE FROM stops WHERE id IN (
    SELECT id FROM stops WHERE ended_at < ? AND (
        ending <> 'ended'
        OR (scope = 'run' AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = stops.value))
    ) LIMIT ?
);
