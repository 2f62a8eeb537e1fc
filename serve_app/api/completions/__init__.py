"""OpenAI's Completions: `exchange` reads a request, `answer` encodes what comes of it."""
