-- Reading interactions, runs and content. {where}, {order} and {list} are filled with fixed text
-- and parameters, never with values.

-- name: interaction_place
SELECT pack, at, size FROM interactions WHERE id = ?;

-- name: interactions_page
SELECT started_at, seq, pack, at, size FROM interactions
WHERE {where}
ORDER BY started_at DESC, seq DESC
LIMIT ?;

-- name: places_of
SELECT started_at, seq, pack, at, size FROM interactions WHERE seq IN ({list})
ORDER BY started_at DESC, seq DESC;

-- name: places_after
SELECT seq, run, pack, at, size FROM interactions WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?;

-- name: packs
SELECT id, codec, data FROM packs WHERE id IN ({list});

-- name: run
SELECT
    key, id, feature, source, title, started_at, last_at, calls, tools_asked, tools_executed,
    errors, input_tokens, output_tokens, max_input_tokens, cost_nano_usd, unpriced, outcome, model,
    end_user, key_id, release, conversation_id, agent
FROM runs WHERE id = ?;

-- name: runs_page
SELECT
    key, id, feature, source, title, started_at, last_at, calls, tools_asked, tools_executed,
    errors, input_tokens, output_tokens, max_input_tokens, cost_nano_usd, unpriced, outcome, model,
    end_user, key_id, release, conversation_id, agent, {order}
FROM runs
WHERE key IN (
    SELECT key FROM runs WHERE {where}
    ORDER BY {order} {direction}, key {direction}
    LIMIT ?
)
ORDER BY {order} {direction}, key {direction};

-- name: run_key
SELECT key FROM runs WHERE id = ?;

-- name: run_ids
SELECT key, id FROM runs WHERE key IN ({list});

-- name: steps
SELECT pack, at, size FROM interactions
WHERE run = (SELECT key FROM runs WHERE id = ?)
ORDER BY started_at, seq LIMIT ? OFFSET ?;

-- name: step_points
SELECT id, started_at, duration_us, outcome, input_tokens, output_tokens, cost_nano_usd, tool_calls
FROM interactions
WHERE run = (SELECT key FROM runs WHERE id = ?)
ORDER BY started_at, seq;

-- name: chain
WITH RECURSIVE chain (hash, parent, content, depth) AS (
    SELECT hash, parent, content, 1 FROM nodes WHERE hash = ?
    UNION ALL
    SELECT nodes.hash, nodes.parent, nodes.content, chain.depth + 1
    FROM chain JOIN nodes ON nodes.hash = chain.parent
    WHERE chain.depth < ?
)
SELECT chain.hash, chain.parent, contents.hash, contents.pack, contents.at, contents.size
FROM chain JOIN contents ON contents.id = chain.content
ORDER BY chain.depth DESC;

-- name: leaf
SELECT
    interactions.asked, contents.hash, contents.pack, contents.at, contents.size
FROM interactions JOIN contents ON contents.id = interactions.answer
WHERE interactions.tip = ? LIMIT 1;

-- name: content_places
SELECT hash, pack, at, size FROM contents WHERE hash IN ({list}) AND pack IS NOT NULL;

-- name: known_nodes
SELECT interactions.tip, interactions.pack, interactions.at, interactions.size
FROM interactions
WHERE interactions.tip IN ({list})
ORDER BY interactions.seq DESC LIMIT ?;

-- name: known_calls
SELECT interactions.tip, interactions.pack, interactions.at, interactions.size
FROM tool_calls JOIN interactions ON interactions.seq = tool_calls.seq
WHERE tool_calls.call IN ({list})
ORDER BY interactions.seq DESC LIMIT ?;
