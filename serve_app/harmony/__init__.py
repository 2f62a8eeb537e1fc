"""Harmony, the language that gpt-oss speaks: token ids to messages, and conversations to token ids.

Pure: neither vLLM nor Ray nor HTTP is known here.

- `tokens`: special tokens, and the bytes of all others
- `reader`: token ids in, events of messages out; whatever the tokens are. `slips` are what it reads over
- `header`: what a message's header says; `header_parts` tells its words apart, `recipients` whom it is for
- `raw_part`: the tokens of a header; `characters`: bytes to text
- `conversation`: what a client has sent, in harmony's terms
- `history`: which turns of it the model sees again
- `renderer`: a conversation to a prompt, as token ids; `token_cache` knows texts that come again
- `tool_schemas`: tools as the prompt shows them
- `vocabulary_file`: the vocabulary, from the checkpoint and not from the network
- `installation`: that the module `openai_harmony` is openai-harmony's
- `grammar`: which token sequences an answer may consist of, for structured output and forced tools
"""
