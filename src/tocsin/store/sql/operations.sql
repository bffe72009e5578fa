-- Operations: their events, steps, idempotency keys, conversations and deliveries.

-- name: operation_add
INSERT INTO operations (
    number, id, kind, feature, created_at, status, outcome, key_id, end_user, run_id, parent_id,
    conversation_id, deadline_at, expires_at, cancel_at, owner, events, record
)
VALUES {rows:18}
ON CONFLICT (id) DO NOTHING RETURNING number;

-- name: operations_last
SELECT coalesce(max(number), 0) FROM operations;

-- name: operations_by_id
SELECT number, events, record FROM operations WHERE id IN ({list});

-- name: operation_by_id
SELECT number, events, record FROM operations WHERE id = ?;

-- name: operation_page
SELECT number, events, record FROM operations WHERE {where}
ORDER BY created_at DESC, number DESC LIMIT ?;

-- name: operation_set_events
UPDATE operations SET events = v.column2
FROM (VALUES {rows:2}) AS v WHERE operations.number = v.column1;

-- name: operation_set_records
UPDATE operations SET events = v.column2, record = v.column3
FROM (VALUES {rows:3}) AS v WHERE operations.number = v.column1;

-- name: operation_set_columns
UPDATE operations SET
    feature = v.column2, created_at = v.column3, status = v.column4,
    outcome = CAST(v.column5 AS TEXT), key_id = CAST(v.column6 AS TEXT),
    end_user = CAST(v.column7 AS TEXT), run_id = CAST(v.column8 AS TEXT),
    parent_id = CAST(v.column9 AS TEXT), conversation_id = CAST(v.column10 AS TEXT),
    deadline_at = CAST(v.column11 AS BIGINT), expires_at = CAST(v.column12 AS BIGINT),
    cancel_at = CAST(v.column13 AS BIGINT), owner = CAST(v.column14 AS TEXT),
    events = v.column15, record = v.column16
FROM (VALUES {rows:16}) AS v WHERE operations.number = v.column1;

-- name: operation_body
SELECT data FROM operation_bodies
WHERE operation = (SELECT number FROM operations WHERE id = ?);

-- name: operation_result
SELECT data FROM operation_results
WHERE operation = (SELECT number FROM operations WHERE id = ?);

-- name: operation_add_body
INSERT INTO operation_bodies (operation, data) VALUES {rows:2};

-- name: operation_put_results
INSERT INTO operation_results (operation, data) VALUES {rows:2}
ON CONFLICT (operation) DO UPDATE SET data = excluded.data;

-- name: operation_add_events
INSERT INTO operation_events (place, events, data) VALUES {rows:3};

-- name: operation_events
SELECT place, events, data FROM operation_events
WHERE place >= coalesce(
    (SELECT max(place) FROM operation_events WHERE place >= ? AND place <= ?), ?
) AND place < ?
ORDER BY place LIMIT ?;

-- name: operation_event_rows
SELECT place, events, data FROM operation_events WHERE place >= ? AND place < ?
ORDER BY place LIMIT ?;

-- name: operation_delete_events
DELETE FROM operation_events WHERE place >= ? AND place < ?;

-- name: operation_is_ended
SELECT 1 FROM operations WHERE id = ? AND number = ? AND status = 'ended';

-- name: operation_delete
DELETE FROM operations WHERE number = ?;

-- name: operation_delete_body
DELETE FROM operation_bodies WHERE operation = ?;

-- name: operation_delete_result
DELETE FROM operation_results WHERE operation = ?;

-- name: operation_free_held
UPDATE conversations SET held_by = NULL WHERE held_by = ?;

-- name: operations_expired
SELECT id FROM operations WHERE expires_at IS NOT NULL AND expires_at <= ? AND status = 'ended'
ORDER BY expires_at LIMIT ?;

-- name: operations_past_deadline
SELECT number, events, record FROM operations
WHERE status <> 'ended' AND status <> 'waiting' AND deadline_at <= ?
ORDER BY deadline_at LIMIT ?;

-- name: operations_nobody_cancels
SELECT number, events, record FROM operations
WHERE status <> 'ended' AND cancel_at IS NOT NULL AND (
    status = 'waiting' OR owner IS NULL
    OR NOT EXISTS (SELECT 1 FROM operation_owners WHERE operation_owners.id = operations.owner)
)
ORDER BY cancel_at LIMIT ?;

-- name: operations_cancelled
SELECT id FROM operations WHERE status <> 'ended' AND cancel_at IS NOT NULL AND owner = ?;

-- name: operations_to_claim
SELECT number, events, record FROM operations
WHERE status <> 'ended' AND status IN ('queued', 'running') AND (
    owner IS NULL OR NOT EXISTS (
        SELECT 1 FROM operation_owners
        WHERE operation_owners.id = operations.owner AND operation_owners.beat_at >= ?
    )
)
ORDER BY number LIMIT ?;

-- name: owner_beat
INSERT INTO operation_owners (id, beat_at) VALUES (?, ?)
ON CONFLICT (id) DO UPDATE SET beat_at = CASE WHEN excluded.beat_at > operation_owners.beat_at
THEN excluded.beat_at ELSE operation_owners.beat_at END;

-- name: owner_retire
DELETE FROM operation_owners WHERE id = ?;

-- name: owner_alive
SELECT 1 FROM operation_owners WHERE id = ? AND beat_at >= ?;

-- name: owners_forget
DELETE FROM operation_owners WHERE beat_at < ?;

-- Steps.

-- name: step
SELECT
    id, scope, name, effect, state, arguments, result, begun_at, ended_at, owner, asked
FROM operation_steps WHERE id = ?;

-- name: step_ask_again
UPDATE operation_steps SET asked = asked + 1 WHERE id = ?
RETURNING id, scope, name, effect, state, arguments, result, begun_at, ended_at, owner, asked;

-- name: step_add
INSERT INTO operation_steps (
    number, id, scope, name, effect, state, arguments, result, begun_at, ended_at, owner, asked
)
VALUES (
    (SELECT coalesce(max(number), 0) + 1 FROM operation_steps), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
);

-- name: step_settle
UPDATE operation_steps SET state = ?, result = ?, ended_at = ?
WHERE id = ? AND state IN ('begun', 'asked', 'unknown');

-- name: step_settle_own
UPDATE operation_steps SET state = ?, result = ?, ended_at = ?
WHERE id = ? AND state IN ('begun', 'asked', 'unknown') AND owner = ?;

-- name: step_take
UPDATE operation_steps SET state = 'begun', owner = ?, result = NULL, ended_at = NULL
WHERE id = ? AND state = ?;

-- name: step_take_begun
UPDATE operation_steps SET owner = ?
WHERE id = ? AND state = 'begun' AND owner <> ? AND (
    EXISTS (
        SELECT 1 FROM operations
        WHERE operations.id = operation_steps.scope AND operations.owner = ?
    )
    OR (
        NOT EXISTS (SELECT 1 FROM operations WHERE operations.id = operation_steps.scope)
        AND NOT EXISTS (
            SELECT 1 FROM operation_owners WHERE operation_owners.id = operation_steps.owner
        )
    )
);

-- name: step_forget
DELETE FROM operation_steps WHERE id = ?;

-- name: steps_of_scope
SELECT
    id, scope, name, effect, state, arguments, result, begun_at, ended_at, owner, asked
FROM operation_steps WHERE scope = ? ORDER BY number;

-- name: steps_in_state
SELECT
    id, scope, name, effect, state, arguments, result, begun_at, ended_at, owner, asked
FROM operation_steps WHERE state = ? ORDER BY number LIMIT ?;

-- name: steps_lost
SELECT id FROM operation_steps
WHERE state = 'begun' AND effect = 1
AND NOT EXISTS (SELECT 1 FROM operations WHERE operations.id = operation_steps.scope)
AND NOT EXISTS (
    SELECT 1 FROM operation_owners
    WHERE operation_owners.id = operation_steps.owner AND operation_owners.beat_at >= ?
)
ORDER BY number LIMIT ?;

-- name: steps_mark_unknown
UPDATE operation_steps SET state = 'unknown' WHERE state = 'begun' AND id IN ({list});

-- name: steps_delete_scope
DELETE FROM operation_steps WHERE scope = ?;

-- name: steps_forget_scopes
DELETE FROM operation_steps WHERE state <> 'begun' AND scope IN ({list});

-- name: steps_forget_old
DELETE FROM operation_steps WHERE number IN (
    SELECT number FROM operation_steps
    WHERE state IN ('done', 'failed', 'unknown') AND begun_at < ?
    AND NOT EXISTS (SELECT 1 FROM operations WHERE operations.id = operation_steps.scope)
    LIMIT ?
);

-- Idempotency keys.

-- name: idempotency_key
SELECT
    principal, name, request_hash, state, owner, created_at, expires_at, call_id, status, headers,
    body, replays
FROM idempotency_keys WHERE principal = ? AND name = ?;

-- name: idempotency_put
INSERT INTO idempotency_keys (
    principal, name, request_hash, state, owner, created_at, expires_at, call_id, status, headers,
    body, replays
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (principal, name) DO UPDATE SET
    request_hash = excluded.request_hash, state = excluded.state, owner = excluded.owner,
    created_at = excluded.created_at, expires_at = excluded.expires_at,
    call_id = excluded.call_id, status = excluded.status, headers = excluded.headers,
    body = excluded.body, replays = excluded.replays;

-- name: idempotency_settle
UPDATE idempotency_keys SET state = ?, call_id = ?, status = ?, headers = ?, body = ?
WHERE principal = ? AND name = ? AND owner = ? AND state <> 'answered';

-- name: idempotency_release
DELETE FROM idempotency_keys
WHERE principal = ? AND name = ? AND owner = ? AND state <> 'answered';

-- name: idempotency_replayed
UPDATE idempotency_keys SET replays = replays + 1 WHERE principal = ? AND name = ?;

-- name: idempotency_forget_expired
DELETE FROM idempotency_keys WHERE (principal, name) IN (
    SELECT principal, name FROM idempotency_keys WHERE expires_at <= ?
    ORDER BY expires_at LIMIT ?
);

-- name: idempotency_forget_calls
DELETE FROM idempotency_keys WHERE call_id <> '' AND call_id IN ({list});

-- Conversations.

-- name: conversation_add
INSERT INTO conversations (
    number, id, key_id, feature, created_at, metadata, items, held_by
)
VALUES (
    (SELECT coalesce(max(number), 0) + 1 FROM conversations), ?, ?, ?, ?, ?, ?, ?
)
ON CONFLICT (id) DO NOTHING RETURNING number;

-- name: conversation
SELECT number, id, key_id, feature, created_at, metadata, items, held_by
FROM conversations WHERE id = ?;

-- name: conversation_set_metadata
UPDATE conversations SET metadata = ? WHERE id = ?;

-- name: conversation_set_items
UPDATE conversations SET items = ? WHERE number = ?;

-- name: conversation_delete
DELETE FROM conversations WHERE number = ?;

-- name: conversation_delete_items
DELETE FROM conversation_items WHERE place >= ? AND place < ?;

-- name: conversation_delete_some
DELETE FROM conversation_items WHERE place IN (
    SELECT place FROM conversation_items WHERE place >= ? AND place < ? ORDER BY place LIMIT ?
);

-- name: conversation_bury
UPDATE conversations SET id = ?, created_at = 0 WHERE number = ?;

-- name: conversations_idle
SELECT number FROM conversations
WHERE number >= ? AND number <= ? AND created_at < ?
AND NOT EXISTS (SELECT 1 FROM operations WHERE operations.conversation_id = conversations.id)
AND coalesce((
    SELECT at FROM conversation_items
    WHERE place >= conversations.number * 16777216
    AND place < (conversations.number + 1) * 16777216
    ORDER BY place DESC LIMIT 1
), 0) < ?
ORDER BY number LIMIT ?;

-- name: conversation_holder
SELECT held_by, EXISTS (
    SELECT 1 FROM operations
    WHERE operations.id = conversations.held_by AND operations.status <> 'ended'
)
FROM conversations WHERE id = ?;

-- name: conversation_hold
UPDATE conversations SET held_by = ? WHERE id = ?;

-- name: conversation_let_go
UPDATE conversations SET held_by = NULL WHERE id = ? AND held_by = ?;

-- name: items_known
SELECT id FROM conversation_items WHERE id IN ({list}) AND conversation = ?;

-- name: items_add
INSERT INTO conversation_items (place, conversation, id, at, operation_id, data) VALUES {rows:6};

-- name: item
SELECT place, id, at, operation_id, data FROM conversation_items
WHERE conversation = ? AND id = ?;

-- name: items_up
SELECT place, id, at, operation_id, data FROM conversation_items
WHERE place > ? AND place < ? ORDER BY place LIMIT ?;

-- name: items_down
SELECT place, id, at, operation_id, data FROM conversation_items
WHERE place > ? AND place < ? ORDER BY place DESC LIMIT ?;

-- name: item_delete
DELETE FROM conversation_items WHERE conversation = ? AND id = ?;

-- Deliveries.

-- name: deliveries_add
INSERT INTO deliveries (
    number, id, endpoint, url, type, payload, created_at, operation_id, state, attempts, next_at,
    last_at, last_status, last_error, ended_at, taken_by, taken_until
)
VALUES {rows:17} ON CONFLICT (id) DO NOTHING;

-- name: deliveries_last
SELECT coalesce(max(number), 0) FROM deliveries;

-- name: deliveries_due
SELECT id, endpoint, url, type, payload, created_at, operation_id, state, attempts, next_at,
    last_at, last_status, last_error, ended_at
FROM deliveries WHERE state = 'pending' AND next_at <= ? AND taken_until <= ?
ORDER BY next_at, number LIMIT ?;

-- name: deliveries_take
UPDATE deliveries SET taken_by = ?, taken_until = ? WHERE id IN ({list});

-- name: delivery_save
UPDATE deliveries SET
    endpoint = ?, url = ?, type = ?, payload = ?, state = ?, attempts = ?, next_at = ?,
    last_at = ?, last_status = ?, last_error = ?, ended_at = ?, taken_by = '', taken_until = 0
WHERE id = ?;

-- name: delivery
SELECT id, endpoint, url, type, payload, created_at, operation_id, state, attempts, next_at,
    last_at, last_status, last_error, ended_at
FROM deliveries WHERE id = ?;

-- name: deliveries
SELECT id, endpoint, url, type, payload, created_at, operation_id, state, attempts, next_at,
    last_at, last_status, last_error, ended_at
FROM deliveries WHERE {where} ORDER BY number DESC LIMIT ?;

-- name: deliveries_disable
UPDATE deliveries SET state = 'disabled', ended_at = ? WHERE state = 'pending' AND url = ?;

-- name: deliveries_enable
UPDATE deliveries SET state = 'pending', ended_at = NULL WHERE state = 'disabled' AND url = ?;

-- name: deliveries_forget_old
DELETE FROM deliveries WHERE number IN (
    SELECT number FROM deliveries WHERE state <> 'pending' AND created_at < ? LIMIT ?
);

-- name: endpoint_disable
INSERT INTO disabled_endpoints (url, disabled_at, reason) VALUES (?, ?, ?)
ON CONFLICT (url) DO UPDATE SET disabled_at = excluded.disabled_at, reason = excluded.reason;

-- name: endpoint_enable
DELETE FROM disabled_endpoints WHERE url = ?;

-- name: endpoints_disabled
SELECT url, disabled_at, reason FROM disabled_endpoints ORDER BY disabled_at, url;

-- name: endpoints_among
SELECT url, disabled_at FROM disabled_endpoints WHERE url IN ({list});

-- Care.

-- name: operation_columns
SELECT
    number, id, kind, feature, status, outcome, key_id, end_user, run_id, parent_id,
    conversation_id, deadline_at, expires_at, cancel_at, owner, events, created_at, record
FROM operations WHERE number > ? ORDER BY number LIMIT ?;

-- name: operation_blobs
SELECT operations.number, operations.id, operation_bodies.data, operation_results.data
FROM operations
LEFT JOIN operation_bodies ON operation_bodies.operation = operations.number
LEFT JOIN operation_results ON operation_results.operation = operations.number
WHERE operations.number > ? ORDER BY operations.number LIMIT ?;

-- name: operation_blobs_of_none
SELECT operation FROM operation_bodies WHERE operation NOT IN (SELECT number FROM operations)
UNION ALL
SELECT operation FROM operation_results WHERE operation NOT IN (SELECT number FROM operations);

-- name: step_blobs
SELECT number, id, arguments, result FROM operation_steps
WHERE number > ? ORDER BY number LIMIT ?;

-- name: delivery_blobs
SELECT number, id, payload FROM deliveries WHERE number > ? ORDER BY number LIMIT ?;

-- name: item_blobs
SELECT
    conversation_items.place, conversation_items.id, conversation_items.data,
    conversation_items.conversation, conversations.items
FROM conversation_items
LEFT JOIN conversations ON conversations.number = conversation_items.conversation
WHERE conversation_items.place > ? ORDER BY conversation_items.place LIMIT ?;

-- name: idempotency_blobs
SELECT principal, name, headers, body FROM idempotency_keys WHERE (principal, name) > (?, ?)
ORDER BY principal, name LIMIT ?;

-- name: operations_of_user
SELECT id, conversation_id FROM operations WHERE end_user = ? ORDER BY number LIMIT ?;

-- name: operations_below
SELECT id, conversation_id FROM operations WHERE parent_id IN ({list});

-- name: conversations_of_operations
SELECT DISTINCT conversations.id
FROM conversation_items JOIN conversations
ON conversations.number = conversation_items.conversation
WHERE conversation_items.operation_id IN ({list});

-- name: items_delete_of_operations
DELETE FROM conversation_items WHERE operation_id IN ({list});

-- name: deliveries_of_operations
DELETE FROM deliveries WHERE operation_id IN ({list});

-- name: conversation_is_shared
SELECT 1 WHERE EXISTS (
    SELECT 1 FROM operations
    WHERE conversation_id = ? AND (end_user IS NULL OR end_user <> ?)
) OR EXISTS (
    SELECT 1 FROM conversation_items
    JOIN operations ON operations.id = conversation_items.operation_id
    WHERE conversation_items.conversation = ?
    AND (operations.end_user IS NULL OR operations.end_user <> ?)
);

-- name: runs_left
SELECT id FROM runs WHERE id IN ({list});

-- name: operations_ended_before
SELECT id FROM operations WHERE status = 'ended' AND created_at < ?
ORDER BY created_at, number LIMIT ?;
