-- Signals: scores, their sums, feedback, baselines, and what detectors remember.

-- name: words_by_text
SELECT word, id FROM signal_words WHERE word IN ({list});

-- name: words_by_id
SELECT id, word FROM signal_words WHERE id IN ({list});

-- name: all_words
SELECT id, word, scale FROM signal_words;

-- name: all_word_ids
SELECT id FROM signal_words;

-- name: last_word
SELECT coalesce(max(id), 0) FROM signal_words;

-- name: add_words
INSERT INTO signal_words (id, word, scale) VALUES {rows:3};

-- name: signals_head
SELECT scores, feedback FROM signals_head;

-- name: set_scores_head
UPDATE signals_head SET scores = ?;

-- name: set_feedback_head
UPDATE signals_head SET feedback = ?;

-- name: places_by_id
SELECT id, seq, pack, at, size FROM interactions WHERE id IN ({list});

-- name: add_scores
INSERT INTO scores (number, seq, feature, started_at, first, pack, at, size) VALUES {rows:8};

-- name: scores_of
SELECT seq, number, feature, started_at, pack, at, size FROM scores WHERE seq IN ({list});

-- name: scored_after
SELECT
    scores.number, scores.first, scores.pack, scores.at, scores.size,
    interactions.pack, interactions.at, interactions.size
FROM scores JOIN interactions ON interactions.seq = scores.seq
WHERE scores.number > ? ORDER BY scores.number LIMIT ?;

-- name: scored_page
SELECT
    scores.started_at, scores.seq, scores.number, scores.pack, scores.at, scores.size,
    interactions.pack, interactions.at, interactions.size
FROM scores JOIN interactions ON interactions.seq = scores.seq
WHERE scores.feature = ? AND scores.started_at >= ?
AND (scores.started_at, scores.seq) < (?, ?)
ORDER BY scores.started_at DESC, scores.seq DESC LIMIT ?;

-- name: scores_of_interaction
SELECT scores.pack, scores.at, scores.size
FROM interactions JOIN scores ON scores.seq = interactions.seq
WHERE interactions.id = ? ORDER BY scores.number;

-- name: delete_scores
DELETE FROM scores WHERE seq IN ({list}) RETURNING pack, at, size;

-- name: sums_at
SELECT s.feature, s.grain, s.dimension, s.at, s.value, s.data
FROM (VALUES {rows:5}) AS v CROSS JOIN signal_sums AS s
WHERE s.feature = v.column1 AND s.grain = v.column2 AND s.dimension = v.column3
AND s.at = v.column4 AND s.value = v.column5;

-- name: put_sums
INSERT INTO signal_sums (feature, grain, dimension, at, value, data) VALUES {rows:6}
ON CONFLICT (feature, grain, dimension, at, value) DO UPDATE SET data = excluded.data;

-- name: count_values
SELECT count(*) FROM signal_sums WHERE feature = ? AND grain = ? AND dimension = ? AND at = ?;

-- name: sums
SELECT feature, at, value, data FROM signal_sums
WHERE feature IN ({features}) AND grain = ? AND dimension = ? AND at >= ? AND at < ? {more}
ORDER BY at, feature, value;

-- name: summed_features
WITH RECURSIVE found (feature) AS (
    SELECT min(feature) FROM signal_sums
    UNION ALL
    SELECT (SELECT min(feature) FROM signal_sums WHERE feature > found.feature)
    FROM found WHERE found.feature IS NOT NULL
)
SELECT feature FROM found WHERE feature IS NOT NULL;

-- name: delete_sums_before
DELETE FROM signal_sums WHERE feature = ? AND grain = ? AND at < ?;

-- name: delete_sums_from
DELETE FROM signal_sums WHERE grain = ? AND at >= ?;

-- name: delete_grain
DELETE FROM signal_sums WHERE grain = ?;

-- name: move_grain
UPDATE signal_sums SET grain = ? WHERE grain = ?;

-- name: delete_sums_of_value
DELETE FROM signal_sums WHERE value = ? AND dimension <> '';

-- name: scores_rows_after
SELECT number, seq, feature, started_at, pack, at, size FROM scores
WHERE number > ? AND number <= ? ORDER BY number LIMIT ?;

-- name: oldest_score
SELECT min(started_at) FROM scores;

-- name: purged_before
SELECT max(before_at) FROM purges;

-- name: newest_sums
SELECT feature, max(at) FROM signal_sums WHERE grain = ? GROUP BY feature;

-- name: verify_scores
SELECT scores.number, interactions.id, scores.pack, scores.at, scores.size, scores.started_at,
    interactions.started_at, signal_words.word
FROM scores
LEFT JOIN interactions ON interactions.seq = scores.seq
LEFT JOIN signal_words ON signal_words.id = scores.feature
WHERE scores.number > ? ORDER BY scores.number LIMIT ?;

-- name: verify_sums
SELECT feature, grain, dimension, at, value, data FROM signal_sums
WHERE (feature, grain, dimension, at, value) > (?, ?, ?, ?, ?)
ORDER BY feature, grain, dimension, at, value LIMIT ?;

-- name: feedback_without_interaction
SELECT feedback.id FROM feedback
WHERE NOT EXISTS (SELECT 1 FROM interactions WHERE interactions.seq = feedback.seq);

-- name: repack_scores_after
SELECT number, pack, at, size FROM scores WHERE number > ? ORDER BY number LIMIT ?;

-- name: move_scores
UPDATE scores SET pack = v.column2, at = v.column3 FROM (VALUES {rows:3}) AS v
WHERE scores.number = v.column1;

-- name: recorded_after
SELECT seq, pack, at, size, asked, answer FROM interactions WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: links
SELECT nodes.hash, nodes.parent, nodes.content FROM nodes WHERE nodes.hash IN ({list});

-- name: chain_front
WITH RECURSIVE chain (hash, parent, content, depth) AS (
    SELECT hash, parent, content, 1 FROM nodes WHERE hash = ?
    UNION ALL
    SELECT nodes.hash, nodes.parent, nodes.content, chain.depth + 1
    FROM chain JOIN nodes ON nodes.hash = chain.parent
)
SELECT hash, parent, content FROM chain ORDER BY depth DESC LIMIT ?;

-- name: contents_by_id
SELECT id, hash, pack, at, size FROM contents WHERE id IN ({list});

-- name: interaction_seq
SELECT seq FROM interactions WHERE id = ?;

-- name: add_feedback
INSERT INTO feedback (number, id, seq, interaction_id, kind, value, comment, given_by, at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: feedback_known
SELECT 1 FROM feedback WHERE id = ?;

-- name: feedback_of
SELECT number, id, interaction_id, kind, value, comment, given_by, at
FROM feedback WHERE seq = (SELECT seq FROM interactions WHERE id = ?) ORDER BY number;

-- name: feedback_after
SELECT number, id, interaction_id, kind, value, comment, given_by, at
FROM feedback WHERE number > ? ORDER BY number LIMIT ?;

-- name: delete_feedback
DELETE FROM feedback WHERE seq IN ({list});

-- name: set_baseline
INSERT INTO baselines (feature, signal, since, given_by, at, note) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (feature, signal) DO UPDATE SET
    since = excluded.since, given_by = excluded.given_by, at = excluded.at, note = excluded.note;

-- name: delete_baseline
DELETE FROM baselines WHERE feature = ? AND signal = ?;

-- name: baselines
SELECT feature, signal, since, given_by, at, note FROM baselines ORDER BY feature, signal;

-- name: set_detector_state
INSERT INTO detector_states (name, version, number, data) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    version = excluded.version, number = excluded.number, data = excluded.data;

-- name: detector_state
SELECT number, data FROM detector_states WHERE name = ? AND version = ?;
