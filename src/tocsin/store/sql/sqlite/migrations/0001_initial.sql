-- The search index, in SQLite's way: the text itself lies in packs, so the index keeps none.
CREATE VIRTUAL TABLE search USING fts5(
    text, content = '', detail = none, columnsize = 0, tokenize = "unicode61 remove_diacritics 2"
);
