-- Full-text search; what an engine says in its own way stands in its own folder.

-- name: unindexed
SELECT id, pack, at, size FROM contents
WHERE id > ? AND blob = 0 AND pack IS NOT NULL ORDER BY id LIMIT ?;

-- name: newest_content
SELECT content, epoch FROM head;

-- name: matching_runs
SELECT run FROM contents WHERE id IN ({matching})
UNION
SELECT run FROM shared WHERE content IN ({matching});

-- name: run_matches
(
    key IN (SELECT run FROM contents WHERE id IN ({matching}))
    OR key IN (SELECT run FROM shared WHERE content IN ({matching}))
);
