"""Prompts of a known length, no two with a common beginning."""

from __future__ import annotations

import random
from typing import Any

from serve_app.bench.load import Load

# Each word, with the space before it, is one token of o200k. There are 256, so that a byte chooses one.
_TEXT = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work government number night point home
water room mother area money story fact month lot right study book eye job word business issue side kind
head house service friend father power hour game line end member law car city community name president
team minute idea kid body information back parent face others level office door health person art war
history party result change morning reason research girl guy moment air teacher force education foot boy
age policy music market sense nation plan college interest death experience effect use class control field
development role effort rate heart drug show leader light voice wife police mind price report decision son
view relationship town road arm difference value building action season society tax director position
player record paper space ground form event official matter center couple site project activity star table
need court produce eat teach oil half situation easy cost industry figure street image phone data picture
practice piece land product doctor wall patient worker news test movie north love support technology
garden river mountain forest ocean island bridge tower castle village farm horse bird fish tree flower
grass stone metal gold silver glass wood fire snow rain wind storm cloud summer winter spring autumn apple
orange lemon bread cheese coffee sugar salt kitchen window chair clock mirror letter pencil train plane
ship boat wheel engine machine tool hammer needle thread
"""
WORDS = _TEXT.split()
_SPACED = [" " + word for word in WORDS]


def prompt(seed: int, number: int, num_tokens: int) -> str:
    """Returns `num_tokens` words, the same for the same `seed` and `number`.

    The service's template adds its own tokens in chat completions.
    """
    chosen = random.Random(f"{seed}:{number}").randbytes(num_tokens)
    return "".join([_SPACED[byte] for byte in chosen])


def body(load: Load, model: str, seed: int, number: int) -> dict[str, Any]:
    """Returns the body of request `number` of a round: what the load says, then its own fragments."""
    made: dict[str, Any] = {"model": model, "stream": load.stream, "max_tokens": load.output_tokens}
    if load.stream:
        made["stream_options"] = {"include_usage": True}
    if load.exact_output:
        made |= {"ignore_eos": True, "min_tokens": load.output_tokens}
    fragment = load.bodies[number % len(load.bodies)] if load.bodies else {}
    if not fragment.keys() & {"messages", "prompt"}:
        text = prompt(seed, number, load.input_tokens)
        made |= {"messages": [{"role": "user", "content": text}]} if load.api == "chat" else {"prompt": text}
    return {**made, **fragment, **load.extra_body}
