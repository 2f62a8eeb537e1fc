"""Anthropic's Messages: `exchange` reads a request, whose fields `request` has; `answer` encodes.

The JSON that is written is that of `events`.
"""
