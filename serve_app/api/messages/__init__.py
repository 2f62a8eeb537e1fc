"""Anthropic's Messages: `exchange` reads a request, `answer` encodes what comes of it."""
