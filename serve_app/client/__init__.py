"""The command-line client of the service. It needs no Ray and no vLLM.

__main__.py  `python -m serve_app.client`
http.py      readiness, the model's name, streams of events
stream.py    what a streamed answer says, event by event
display.py   the answer to standard output, the rest to standard error
harmony.py   `--harmony`: render and parse with openai-harmony
"""
