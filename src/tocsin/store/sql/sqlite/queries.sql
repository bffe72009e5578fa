-- What only SQLite says.

-- name: table_names
SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%';

-- name: index_texts
INSERT INTO search (rowid, text) VALUES {rows:2};

-- name: unindex_texts
INSERT INTO search (search, rowid, text) VALUES {rows:3};

-- name: clear_index
INSERT INTO search (search) VALUES ('delete-all');

-- name: matching_contents
SELECT rowid FROM search WHERE search MATCH ? ORDER BY rowid DESC LIMIT 5000;

-- name: used_bytes
SELECT (page_count - freelist_count) * page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size;

-- name: check_database
SELECT integrity_check FROM pragma_integrity_check;

-- name: merge_index
INSERT INTO search (search, rank) VALUES ('merge', ?);

-- name: changes
SELECT total_changes();
