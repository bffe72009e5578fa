-- Analytics over segments and the tail of the log. {source} is both together, {where} the filter's
-- conditions; {bucket} is a time step's number.

-- name: rows_of_files
SELECT * FROM read_parquet([{files}]) WHERE {kept};

-- name: span
SELECT min(started_at), max(started_at) FROM {source} WHERE {where};

-- name: sums
SELECT
    feature, {bucket} AS bucket, outcome, count(*), sum(cost_nano_usd)::BIGINT,
    count(cost_nano_usd), sum(input_tokens)::BIGINT, sum(output_tokens)::BIGINT,
    sum(cache_read_tokens)::BIGINT, count(*) FILTER (fallback), sum(retries)::BIGINT
FROM {source} WHERE {where} GROUP BY ALL;

-- name: runs_by
WITH pairs AS MATERIALIZED (
    SELECT {by} AS value, run FROM {source} WHERE {where} GROUP BY ALL
)
SELECT value, count(*), false AS whole FROM pairs GROUP BY value
UNION ALL
SELECT NULL, count(DISTINCT run), true FROM pairs;

-- name: run_count
SELECT count(DISTINCT run) FROM {source} WHERE {where};

-- name: durations
SELECT feature, {bucket} AS bucket, quantile_cont(duration_us, [0.5, 0.95, 0.99])
FROM {source} WHERE {where} AND duration_us > 0 GROUP BY GROUPING SETS ((feature), (bucket), ());

-- name: first_chunks
SELECT feature, {bucket} AS bucket, quantile_cont(first_chunk_us, [0.5, 0.95])
FROM {source} WHERE {where} AND first_chunk_us IS NOT NULL
GROUP BY GROUPING SETS ((feature), (bucket), ());

-- name: spend_by_bucket
SELECT
    {by} AS value, {bucket} AS bucket, count(*), sum(cost_nano_usd)::BIGINT,
    count(cost_nano_usd), count(*) FILTER (estimated), sum(input_tokens)::BIGINT,
    sum(output_tokens)::BIGINT, sum(cache_read_tokens)::BIGINT, sum(reasoning_tokens)::BIGINT
FROM {source} WHERE {where} GROUP BY ALL;

-- name: spend
SELECT
    {by} AS value, count(*), sum(cost_nano_usd)::BIGINT, count(cost_nano_usd),
    count(*) FILTER (estimated), sum(input_tokens)::BIGINT, sum(output_tokens)::BIGINT,
    sum(cache_read_tokens)::BIGINT, sum(reasoning_tokens)::BIGINT
FROM {source} WHERE {where} GROUP BY ALL
ORDER BY sum(cost_nano_usd) DESC NULLS LAST, count(*) DESC, value LIMIT ?;

-- name: spend_runs
SELECT value, count(*) FROM (
    SELECT {by} AS value, run FROM {source}
    WHERE {where} AND ifnull({by}, {none}) IN (SELECT unnest(?)) GROUP BY ALL
) GROUP BY value;

-- name: spend_series
SELECT {by} AS value, {bucket} AS bucket, sum(cost_nano_usd)::BIGINT
FROM {source} WHERE {where} AND ifnull({by}, {none}) IN (SELECT unnest(?)) GROUP BY ALL;

-- name: facet
SELECT {by} AS value, count(*) AS calls FROM {source} WHERE {where} AND {by} IS NOT NULL
GROUP BY ALL ORDER BY calls DESC, value LIMIT 100;

-- name: newest
SELECT started_at, seq FROM {source} WHERE {where}
ORDER BY started_at DESC, seq DESC LIMIT ?;

-- name: matching
SELECT seq FROM {source} WHERE {where} ORDER BY seq;
