"""The request bodies that the gateway benchmark sends: two messages, about 1.1 kB."""

from __future__ import annotations

import json
from pathlib import Path

SYSTEM = (
    "You are a careful support assistant. "
    "Answer from the context only and cite the section you used. "
)
CONTEXT = (
    "Section {i}: orders that left the warehouse can be returned within 30 days "
    "when the seal is intact. "
)
MARK = "@" * 16
MODEL = "gpt-4o-mini"


def body(*, stream: bool, prompt_bytes: int = 900) -> bytes:
    """One chat completions request, with about ``prompt_bytes`` of context."""
    context = "".join(CONTEXT.format(i=i) for i in range(200))[: max(0, prompt_bytes - len(SYSTEM))]
    # The load generator writes a number over the mark, so that no two requests are the same.
    question = f"Can I return order {MARK} that arrived on Monday?"
    request: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{context}\n{question}"},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    if stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(request).encode()


def written(folder: Path) -> tuple[Path, Path]:
    """The plain and the streaming body as files for the load generator."""
    plain, stream = folder / "body.json", folder / "body-stream.json"
    plain.write_bytes(body(stream=False))
    stream.write_bytes(body(stream=True))
    return plain, stream
