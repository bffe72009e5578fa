-- Writing interactions. {rows:n} stands for a list of rows of n parameters, {list} for a list of
-- parameters.

-- name: head
SELECT seq, run, content, pack, epoch FROM head;

-- name: set_head
UPDATE head SET seq = ?, run = ?, content = ?, pack = ?;

-- name: next_epoch
UPDATE head SET epoch = epoch + 1;

-- name: existing_ids
SELECT id FROM interactions WHERE id IN ({list});

-- name: run_keys
SELECT id, key FROM runs WHERE id IN ({list});

-- name: existing_nodes
SELECT hash FROM nodes WHERE hash IN ({list});

-- name: content_ids
SELECT hash, id, pack IS NOT NULL, run FROM contents WHERE hash IN ({list});

-- name: add_packs
INSERT INTO packs (id, codec, live, data) VALUES {rows:4};

-- name: add_interactions
INSERT INTO interactions (
    seq, id, run, kind, started_at, duration_us, outcome, input_tokens, output_tokens,
    cost_nano_usd, tool_calls, asked, answer, tip, pack, at, size, digest
) VALUES {rows:18};

-- name: add_contents
INSERT INTO contents (id, hash, blob, run, refs, pack, at, size) VALUES {rows:8};

-- name: fill_content
UPDATE contents SET pack = ?, at = ?, size = ? WHERE id = ? AND pack IS NULL;

-- name: add_content_refs
UPDATE contents SET refs = refs + v.column2 FROM (VALUES {rows:2}) AS v
WHERE contents.id = v.column1;

-- name: add_nodes
INSERT INTO nodes (hash, parent, content, refs) VALUES {rows:4};

-- name: add_node_refs
UPDATE nodes SET refs = refs + v.column2 FROM (VALUES {rows:2}) AS v
WHERE nodes.hash = v.column1;

-- name: add_shared
INSERT INTO shared (content, run) VALUES {rows:2} ON CONFLICT DO NOTHING;

-- name: add_tool_calls
INSERT INTO tool_calls (call, seq) VALUES {rows:2} ON CONFLICT DO NOTHING;

-- name: upsert_runs
INSERT INTO runs (
    key, id, feature, source, title, started_at, last_at, verdict_at, calls, tools_asked,
    tools_executed, errors, input_tokens, output_tokens, max_input_tokens, cost_nano_usd, unpriced,
    outcome, model, upstream, end_user, key_id, release, conversation_id, agent
) VALUES {rows:25}
ON CONFLICT (key) DO UPDATE SET
    title = CASE WHEN runs.title = '' THEN excluded.title ELSE runs.title END,
    started_at = CASE
        WHEN excluded.started_at < runs.started_at THEN excluded.started_at ELSE runs.started_at
    END,
    last_at = CASE
        WHEN excluded.last_at > runs.last_at THEN excluded.last_at ELSE runs.last_at
    END,
    calls = runs.calls + excluded.calls,
    tools_asked = runs.tools_asked + excluded.tools_asked,
    tools_executed = runs.tools_executed + excluded.tools_executed,
    errors = runs.errors + excluded.errors,
    input_tokens = runs.input_tokens + excluded.input_tokens,
    output_tokens = runs.output_tokens + excluded.output_tokens,
    max_input_tokens = CASE
        WHEN excluded.max_input_tokens > runs.max_input_tokens
            THEN excluded.max_input_tokens ELSE runs.max_input_tokens
    END,
    cost_nano_usd = runs.cost_nano_usd + excluded.cost_nano_usd,
    unpriced = runs.unpriced + excluded.unpriced,
    outcome = CASE
        WHEN excluded.verdict_at >= runs.verdict_at THEN excluded.outcome ELSE runs.outcome
    END,
    model = CASE
        WHEN excluded.verdict_at >= runs.verdict_at THEN excluded.model ELSE runs.model
    END,
    upstream = CASE
        WHEN excluded.verdict_at >= runs.verdict_at THEN excluded.upstream ELSE runs.upstream
    END,
    verdict_at = CASE
        WHEN excluded.verdict_at > runs.verdict_at THEN excluded.verdict_at ELSE runs.verdict_at
    END,
    end_user = coalesce(runs.end_user, excluded.end_user),
    key_id = coalesce(runs.key_id, excluded.key_id),
    release = coalesce(runs.release, excluded.release),
    conversation_id = coalesce(runs.conversation_id, excluded.conversation_id),
    agent = coalesce(runs.agent, excluded.agent);
