"""Answers: what a client gets, as items (reasoning, text, calls), whichever API it uses.

Pure: it knows harmony, and neither vLLM nor Ray nor HTTP.

- `offer`: what the request offered and asked for, as far as reading its answer depends on it
- `items`: the events of an answer
- `answer`: token ids in, these events out; `message_items` tells which message is which item
- `content`: text that stop strings may cut, and the log probabilities of its tokens
- `stop_strings`: a cut at a string, wherever the tokens' limits are
- `usage`: what is counted
- `repairs`: what had to be repaired in what the model said
"""
