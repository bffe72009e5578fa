-- Deletion, verification, statistics.

-- name: oldest
SELECT seq, started_at, pack, at, size FROM interactions
WHERE started_at < ? AND seq <= ?
ORDER BY started_at, seq LIMIT ?;

-- name: delete_interactions
DELETE FROM interactions WHERE seq IN ({list}) 
RETURNING seq, run, asked, answer, pack, at, size;

-- name: delete_tool_calls
DELETE FROM tool_calls WHERE seq IN ({list});

-- name: drop_node_refs
UPDATE nodes SET refs = refs - v.column2 FROM (VALUES {rows:2}) AS v
WHERE nodes.hash = v.column1
RETURNING nodes.hash, nodes.parent, nodes.content, nodes.refs;

-- name: delete_nodes
DELETE FROM nodes WHERE hash IN ({list});

-- name: drop_content_refs
UPDATE contents SET refs = refs - v.column2 FROM (VALUES {rows:2}) AS v
WHERE contents.id = v.column1
RETURNING contents.id, contents.refs, contents.blob, contents.pack, contents.at, contents.size;

-- name: ids_of_contents
SELECT hash, id FROM contents WHERE hash IN ({list});

-- name: delete_contents
DELETE FROM contents WHERE id IN ({list});

-- name: delete_shared_contents
DELETE FROM shared WHERE content IN ({list});

-- name: drop_pack_items
UPDATE packs SET live = live - v.column2 FROM (VALUES {rows:2}) AS v
WHERE packs.id = v.column1
RETURNING packs.id, packs.live;

-- name: delete_packs
DELETE FROM packs WHERE id IN ({list});

-- name: set_pack
UPDATE packs SET codec = ?, data = ? WHERE id = ?;

-- name: delete_empty_runs
DELETE FROM runs WHERE key IN ({list})
AND NOT EXISTS (SELECT 1 FROM interactions WHERE interactions.run = runs.key)
RETURNING key, id;

-- name: shared_edge
SELECT content, run FROM shared WHERE (content, run) > (?, ?)
ORDER BY content, run LIMIT 1 OFFSET ?;

-- name: delete_shared_of_no_run
DELETE FROM shared WHERE (content, run) > (?, ?) AND (content, run) <= (?, ?)
AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.key = shared.run);

-- name: run_sums
SELECT
    run, count(*), min(started_at), max(started_at + duration_us),
    sum(CASE WHEN kind = 0 THEN 1 ELSE 0 END),
    sum(CASE WHEN kind = 0 THEN tool_calls ELSE 0 END),
    sum(CASE WHEN kind = 2 THEN 1 ELSE 0 END),
    sum(CASE WHEN kind = 0 AND outcome <> 'complete' THEN 1 ELSE 0 END),
    sum(CASE WHEN kind = 0 THEN coalesce(input_tokens, 0) ELSE 0 END),
    sum(CASE WHEN kind = 0 THEN coalesce(output_tokens, 0) ELSE 0 END),
    max(CASE WHEN kind = 0 THEN coalesce(input_tokens, 0) ELSE 0 END),
    sum(CASE WHEN kind = 0 THEN coalesce(cost_nano_usd, 0) ELSE 0 END),
    sum(CASE WHEN kind = 0 AND cost_nano_usd IS NULL THEN 1 ELSE 0 END),
    max(started_at + duration_us - CASE WHEN kind = 0 THEN 0 ELSE 1152921504606846976 END)
FROM interactions WHERE run IN ({list}) GROUP BY run;

-- name: set_run_sums
UPDATE runs SET
    started_at = ?, last_at = ?, calls = ?, tools_asked = ?, tools_executed = ?, errors = ?,
    input_tokens = ?, output_tokens = ?, max_input_tokens = ?, cost_nano_usd = ?, unpriced = ?
WHERE key = ? RETURNING verdict_at;

-- name: verdict
SELECT outcome, pack, at, size FROM interactions
WHERE run = ? AND started_at + duration_us - CASE WHEN kind = 0 THEN 0 ELSE 1152921504606846976 END = ?
ORDER BY seq DESC LIMIT 1;

-- name: set_verdict
UPDATE runs SET verdict_at = ?, outcome = ?, model = ?, upstream = ? WHERE key = ?;

-- name: run_places
SELECT seq, pack, at, size FROM interactions WHERE run = ? ORDER BY seq;

-- name: set_identity
UPDATE runs SET
    title = ?, feature = ?, source = ?, end_user = ?, key_id = ?, release = ?,
    conversation_id = ?, agent = ?
WHERE key = ?;

-- name: add_purge
INSERT INTO purges (id, max_seq, before_at, before_seq, seqs)
VALUES ((SELECT epoch FROM head), ?, ?, ?, ?);

-- name: drop_covered_purges
DELETE FROM purges
WHERE seqs = '[]' AND max_seq <= ? AND (before_at, before_seq) <= (?, ?)
AND id < (SELECT epoch FROM head);

-- name: purges_after
SELECT id, max_seq, before_at, before_seq, seqs FROM purges WHERE id > ? ORDER BY id;

-- name: counts
SELECT
    (SELECT count(*) FROM interactions), (SELECT count(*) FROM runs),
    (SELECT count(*) FROM contents), (SELECT seq FROM head),
    (SELECT min(started_at) FROM interactions), (SELECT max(started_at) FROM interactions);

-- name: totals
SELECT
    (SELECT count(*) FROM interactions) + (SELECT count(*) FROM contents)
    + (SELECT count(*) FROM nodes) + (SELECT count(*) FROM runs);

-- name: verify_interactions
SELECT
    interactions.seq, interactions.id, interactions.kind, interactions.started_at,
    interactions.duration_us, interactions.outcome, interactions.input_tokens,
    interactions.output_tokens, interactions.cost_nano_usd, interactions.tool_calls,
    interactions.pack, interactions.at, interactions.size, interactions.digest, runs.id,
    interactions.asked, interactions.tip, interactions.answer, nodes.hash, contents.hash
FROM interactions
LEFT JOIN runs ON runs.key = interactions.run
LEFT JOIN nodes ON nodes.hash = interactions.asked
LEFT JOIN contents ON contents.id = interactions.answer
WHERE interactions.seq > ? ORDER BY interactions.seq LIMIT ?;

-- name: verify_contents
SELECT id, hash, blob, pack, at, size FROM contents WHERE id > ? ORDER BY id LIMIT ?;

-- name: verify_nodes
SELECT nodes.hash, nodes.parent, contents.hash, above.hash
FROM nodes
LEFT JOIN contents ON contents.id = nodes.content
LEFT JOIN nodes AS above ON above.hash = nodes.parent
WHERE nodes.hash > ? ORDER BY nodes.hash LIMIT ?;

-- name: wrong_node_refs
SELECT nodes.hash, nodes.refs, coalesce(used.n, 0)
FROM nodes LEFT JOIN (
    SELECT hash, sum(n) AS n FROM (
        SELECT asked AS hash, count(*) AS n FROM interactions
        WHERE asked IS NOT NULL GROUP BY asked
        UNION ALL
        SELECT parent AS hash, count(*) AS n FROM nodes GROUP BY parent
    ) AS uses GROUP BY hash
) AS used ON used.hash = nodes.hash
WHERE nodes.refs <> coalesce(used.n, 0);

-- name: wrong_content_refs
SELECT contents.hash, contents.refs, coalesce(used.n, 0)
FROM contents LEFT JOIN (
    SELECT content, sum(n) AS n FROM (
        SELECT content, count(*) AS n FROM nodes GROUP BY content
        UNION ALL
        SELECT answer AS content, count(*) AS n FROM interactions
        WHERE answer IS NOT NULL GROUP BY answer
    ) AS uses GROUP BY content
) AS used ON used.content = contents.id
WHERE contents.blob = 0 AND contents.refs <> coalesce(used.n, 0);

-- name: wrong_packs
SELECT packs.id, packs.live, coalesce(used.n, 0)
FROM packs LEFT JOIN (
    SELECT pack, sum(n) AS n FROM (
        SELECT pack, count(*) AS n FROM interactions GROUP BY pack
        UNION ALL
        SELECT pack, count(*) AS n FROM contents WHERE pack IS NOT NULL GROUP BY pack
        UNION ALL
        SELECT pack, count(*) AS n FROM scores GROUP BY pack
    ) AS items GROUP BY pack
) AS used ON used.pack = packs.id
WHERE packs.live <> coalesce(used.n, 0);

-- name: verify_runs
SELECT
    key, id, started_at, last_at, calls, tools_asked, tools_executed, errors, input_tokens,
    output_tokens, max_input_tokens, cost_nano_usd, unpriced, verdict_at
FROM runs WHERE key > ? ORDER BY key LIMIT ?;

-- name: seqs_after
SELECT seq FROM interactions WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: span_of_all
SELECT (SELECT min(started_at) FROM interactions), (SELECT max(started_at) FROM interactions);

-- name: records_after
SELECT seq, pack, at, size FROM interactions WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: contents_after
SELECT id, pack, at, size FROM contents WHERE id > ? AND pack IS NOT NULL ORDER BY id LIMIT ?;

-- name: pack_lives
SELECT id, live FROM packs WHERE id IN ({list});

-- name: move_records
UPDATE interactions SET pack = v.column2, at = v.column3 FROM (VALUES {rows:3}) AS v
WHERE interactions.seq = v.column1;

-- name: move_contents
UPDATE contents SET pack = v.column2, at = v.column3 FROM (VALUES {rows:3}) AS v
WHERE contents.id = v.column1;
