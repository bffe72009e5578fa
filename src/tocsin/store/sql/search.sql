-- Full-text search; what an engine says in its own way stands in its own folder.

-- name: unindexed
SELECT id, pack, at, size FROM contents
WHERE id > ? AND blob = 0 AND pack IS NOT NULL ORDER BY id LIMIT ?;

-- name: newest_content
SELECT content, epoch FROM head;
