-- Signals: scores, their sums, feedback, baselines, and what detectors remember.

-- Words that rows below refer to by number: features, signals, and signals with their version. Of a
-- signal whose logarithms are summed, `scale` is what its values are divided by; 0 of all others.
CREATE TABLE signal_words (
    id INTEGER PRIMARY KEY,
    word TEXT NOT NULL,
    scale DOUBLE PRECISION NOT NULL
);

CREATE UNIQUE INDEX signal_words_word ON signal_words (word);

-- The last numbers that scores and feedback were given; they are never given again.
CREATE TABLE signals_head (
    only_row INTEGER PRIMARY KEY,
    scores INTEGER NOT NULL,
    feedback INTEGER NOT NULL
);

INSERT INTO signals_head (only_row, scores, feedback) VALUES (1, 0, 0);

-- What evaluators, people and judges said of interactions, in the order in which it was said.
-- `feature` is a word; `pack`, `at` and `size` say where scores and slices lie.
CREATE TABLE scores (
    number INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    first INTEGER NOT NULL,
    pack INTEGER NOT NULL,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL
);

CREATE INDEX scores_feature ON scores (feature, started_at, seq);
CREATE INDEX scores_seq ON scores (seq);

-- All signals of a feature, or of one of its slices, summed over one step of time. `grain` is 0 for
-- five minutes, 1 for an hour, 2 for a day; others are sums that are being made again. `data` holds
-- for each signal: its word, how many values, their sum, their sum of squares, how many unjudged.
CREATE TABLE signal_sums (
    feature INTEGER NOT NULL,
    grain INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    at INTEGER NOT NULL,
    value TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (feature, grain, dimension, at, value)
) WITHOUT ROWID;

CREATE TABLE feedback (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    interaction_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    value DOUBLE PRECISION,
    comment TEXT NOT NULL,
    given_by TEXT NOT NULL,
    at INTEGER NOT NULL
);

CREATE UNIQUE INDEX feedback_id ON feedback (id);
CREATE INDEX feedback_seq ON feedback (seq);

-- Since when a person has called the level of a signal normal.
CREATE TABLE baselines (
    feature TEXT NOT NULL,
    signal TEXT NOT NULL,
    since INTEGER NOT NULL,
    given_by TEXT NOT NULL,
    at INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (feature, signal)
);

-- What detectors remember, as of the row `number` of what they are shown.
CREATE TABLE detector_states (
    name TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL
);
