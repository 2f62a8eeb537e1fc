"""OpenAI's Chat Completions: `exchange` reads a request, `answer` encodes what comes of it."""
