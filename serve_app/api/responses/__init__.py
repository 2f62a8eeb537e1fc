"""OpenAI's Responses: `exchange` reads a request, `answer` encodes what comes of it."""
