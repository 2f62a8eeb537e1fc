"""The HTTP API: bodies in, answers out.

- `application`, `routes`: the FastAPI application and what it answers
- `endpoint`: the HTTP side of a route that generates
- `generation`, `inbox`: sequences in engines, and where their tokens arrive
- `exchange`: what an API makes of a body, and what an encoder is
- `chat`, `completions`, `responses`, `messages`: the APIs, a package each: `exchange` reads, `answer` encodes
- `fields`, `schemas`, `sampling`, `efforts`, `text_parts`, `tool_names`: what several of them read alike
- `openapi`, `documentation`, `models`, `tokenization`: the routes beside them
"""
