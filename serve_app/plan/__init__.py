"""What a config means, without a GPU and without Ray: `python -m serve_app.plan CONFIG`.

__main__.py       the command
contents.py       what a plan holds, as plain data
memory.py         weights, KV cache and requests that fit on one GPU
architectures.py  shapes of gpt-oss and its speculators, bytes of their weights
text.py           a plan as text
"""
