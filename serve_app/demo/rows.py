"""Which rows of the vocabulary the demo model learns; all others share one row."""

from collections import Counter

from serve_app.demo import conversations, words
from serve_app.demo.conversations import RARE, encoding, example

NUM_SCANNED = 4000
# A token outside the word lists counts as used when it turns up this often among the scanned conversations.
LEAST_USES = 3
ALWAYS_USES = 100
SCAN_SEED = 77


def used_rows() -> list[int]:
    """Sorted token ids: harmony's own, all numbers up to 999, the word lists, and what conversations use."""
    encode = encoding().encode
    rows = set(encode("".join(SPECIAL), allowed_special="all"))
    names = [*words.PEOPLE, *words.CITIES, *words.CAPITALS, *conversations.vocabulary().known]
    listed = [item for pool in words.LISTS.values() for item in pool]
    forms = [str(n).zfill(width) for width in (1, 2, 3) for n in range(10**width)]
    forms += [form for name in [*names, *listed] for form in (name, f" {name}", f" {name.capitalize()}")]
    forms += [item.upper() for item in [*listed, "hello", "world", "yes", "no", "test"]]
    for form in forms:
        rows.update(encode(form))
    counts: Counter[int] = Counter()
    for number in range(NUM_SCANNED):
        drawn = example(SCAN_SEED, number, long=0.0)
        counts.update(drawn.prompt)
        # Whatever the model is to say it must have a row for.
        rows.update(drawn.reply)
    for token, uses in counts.items():
        # A rank among the rare ones is a stranger's word, unless it belongs to harmony's own phrases.
        if uses >= (LEAST_USES if token < RARE.start else ALWAYS_USES):
            rows.add(token)
    return sorted(rows)


SPECIAL = (
    "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>",
    "<|call|>",
)  # fmt: skip
