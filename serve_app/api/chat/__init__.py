"""OpenAI's Chat Completions: `exchange` reads a request, whose fields `request` has; `answer` encodes.

The JSON that is written is that of `response`.
"""
