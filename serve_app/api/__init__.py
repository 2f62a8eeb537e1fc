"""The HTTP API: bodies in, answers out.

- `application`: the FastAPI application: routes, middleware, health
- `fields`: a request body to typed values, with errors that name the place
- `sampling`: how to sample, from any of the APIs
- `exchange`: what an API makes of a body, and the encoder of its answer
- `chat`, `responses`, `messages`: OpenAI's Chat Completions and Responses, Anthropic's Messages
"""
