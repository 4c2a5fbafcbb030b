"""Wire formats: bodies into calls, events into bodies or chunks, and nothing else.

Each is a file with `routes`; a new one is served by being listed here.
"""

from __future__ import annotations

from linnet.engine.server.wire import (
    chat,
    completions,
    embeddings,
    expose,
    messages,
    models,
    native,
    openapi,
    page,
    props,
    responses,
    text,
)

WIRES = (
    models, chat, completions, responses, messages, native, embeddings, text, props, expose,
    openapi, page,
)  # fmt: skip
