-- What only PostgreSQL says.

-- name: lock
SELECT pg_advisory_xact_lock(8385824563014397299);

-- name: table_names
SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema();

-- name: index_texts
INSERT INTO search (content, words)
SELECT v.column1, strip(to_tsvector('simple', v.column2)) FROM (VALUES {rows:2}) AS v
ON CONFLICT DO NOTHING;

-- name: unindex_texts
DELETE FROM search WHERE content IN ({list});

-- name: clear_index
TRUNCATE search;

-- name: matching_contents
SELECT content FROM search WHERE words @@ to_tsquery('simple', ?)
ORDER BY content DESC LIMIT 5000;

-- name: used_bytes
SELECT
    (SELECT coalesce(sum(octet_length(data)), 0) FROM packs)
    + 600 * (SELECT count(*) FROM interactions) + 200 * (SELECT count(*) FROM contents)
    + 150 * (SELECT count(*) FROM scores) + 400 * (SELECT count(*) FROM signal_sums)
    + (SELECT coalesce(sum(octet_length(data) + 50), 0) FROM operation_events)
    + (SELECT coalesce(sum(octet_length(data) + 50), 0) FROM operation_bodies)
    + (SELECT coalesce(sum(octet_length(data) + 50), 0) FROM operation_results)
    + (SELECT coalesce(sum(octet_length(data) + 200), 0) FROM conversation_items)
    + 1000 * (SELECT count(*) FROM operations) + 500 * (SELECT count(*) FROM operation_steps);

-- name: disk_bytes
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind = 'r';
