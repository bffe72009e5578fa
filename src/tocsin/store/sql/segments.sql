-- Folding the log into segments, and what a reader must know of them.

-- name: add_fold
INSERT INTO folds (folder, folded_seq, purged, owner, lease_until)
VALUES (?, 0, (SELECT epoch FROM head), '', 0)
ON CONFLICT DO NOTHING;

-- name: take_lease
UPDATE folds SET owner = ?, lease_until = ?
WHERE folder = ? AND (lease_until < ? OR owner = ?);

-- name: release_lease
UPDATE folds SET owner = '', lease_until = 0 WHERE folder = ? AND owner = ?;

-- name: fold_state
SELECT folded_seq, purged FROM folds WHERE folder = ?;

-- name: advance_fold
UPDATE folds SET folded_seq = ?, lease_until = ? WHERE folder = ? AND owner = ?;

-- name: set_purged
UPDATE folds SET purged = ?, lease_until = ? WHERE folder = ? AND owner = ?;

-- name: restart_fold
UPDATE folds SET
    folded_seq = 0, purged = (SELECT epoch FROM head), lease_until = ?
WHERE folder = ? AND owner = ?;

-- name: segments
SELECT file, first_seq, last_seq, row_count, bytes, digest FROM segments
WHERE folder = ? ORDER BY first_seq;

-- name: add_segment
INSERT INTO segments (folder, file, first_seq, last_seq, row_count, bytes, digest)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: drop_segments
DELETE FROM segments WHERE folder = ? AND file IN ({list});

-- name: drop_all_segments
DELETE FROM segments WHERE folder = ?;

-- name: last_seq
SELECT seq, epoch FROM head;

-- name: drop_applied_purges
DELETE FROM purges WHERE id <= (SELECT min(purged) FROM folds);

-- name: count_between
SELECT count(*) FROM interactions WHERE seq BETWEEN ? AND ?;
