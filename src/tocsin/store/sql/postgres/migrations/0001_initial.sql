-- The search index, in PostgreSQL's way.
CREATE TABLE search (
    content BIGINT PRIMARY KEY,
    words TSVECTOR NOT NULL
);

CREATE INDEX search_words ON search USING gin (words);
