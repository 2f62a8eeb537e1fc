"""Grammars of structured output: whether a structural tag can become one, found out before an engine gets it.

- `bounds`: how large patterns and grammars may be
- `checker`: asks worker processes, within limits
- `worker`: such a process, which compiles one grammar after the other
- `vocabulary`: the vocabulary as grammars see it, in which special tokens are no text
- `text`: what xgrammar makes of strings whose length is limited, put right

How an engine core compiles, with that vocabulary, is `serve_app.vllm_worker.grammars`.
"""
