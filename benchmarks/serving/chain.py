"""The token chain that a benchmark's checkpoint follows, and the numbers that make a network follow it.

After `<|start|>assistant` come `<|channel|>final<|message|>` and then WORDS for ever, each of six characters
with its space. Every token outside the chain leads to the first word, none to a stop token.

- Model: attention and experts compute at full size but add next to nothing, so what the head sees is the last
  token's embedding. A row of the head is the sum of its predecessors' embeddings.
- Speculator: nothing but the latest token counts, at every draft position. `norm_before_residual` and a
  `hidden_norm` of zeros remove the hidden state that is fed back. Queries and keys are the same vector for
  all tokens, turned by their positions, so that attention sees its own position alone. Its value is a part
  of the token's embedding, and `o_proj` hands that to the head.

A sampled request's rejected draft token is never drawn again: vLLM takes another, even where synthetic
acceptance rejected the only likely one. So each token has a second choice that leads on as the first does: a
word's twin, spaces before `<|message|>`, `analysis` for `final`. Its probability, about exp(-50), is never
drawn otherwise.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHANNEL, MESSAGE = 200005, 200008
_WORDS = """
    their about which other there value would first start under final every right these where after
    could while years event print great child break model using check world think again point being
    place found super order quest state those organ local style still month offer going build color
    stand level field small table range three water input power index catch group count total dream
    image since email allow never title video money price ident match short visit today based speak
    light label times along begin throw house exist cover given width block large needs float thing
    elect learn valid until clean items means often makes later quick night story below store space
    press study extra major games write favor teach hours women share above least focus close track
"""
_TWINS = """
    click doing clear music users human maint known front async heart young watch bring query phone
    enter added works terms black limit types early whole apply among files brand exact grand hotel
    words sites claim staff white stock token issue paper taken refer areas quite board plant third
    lower ready cause happy sales books entry frame sound round party touch shows weeks graph drive
    worth reach leave speed asked legal ideas parts paint cases cross built audio wrong empty looks
    movie floor avoid parse daily score panel tools trust sense train alert pages views owner adult
    lines sleep names photo woman solid shift smart green drink plans hands fresh piece ideal guide
    prime mount scale raise stuff links sport stage basic login align basis force shape birth rules
"""
WORDS, TWINS = _WORDS.split(), _TWINS.split()

# Logits of a token's successor and of its second choice; all others are near zero.
LIKELY, SPARE = 100.0, 50.0
# The value of the dimensions that are the same in all embeddings, or in all outside the chain.
MARK = 2.0
# Frequencies from 1 down to 1/2: the score of another position, up to a distance of 131,072, is at most
# three quarters of the own one's.
ROPE_THETA = 2.0
# Of a query or key, in each rotated pair: the own position scores 12 * 12 * 32 / 8 with heads of 64.
TURNED = 12.0


@dataclass(frozen=True)
class Chain:
    """`next` and `spare` are the first and second choice after each token of the chain."""

    next: dict[int, int]
    spare: dict[int, int]
    # What follows tokens outside, and the second choice there.
    first: int
    first_spare: int

    @property
    def tokens(self) -> list[int]:
        """Those with successors of their own, ascending."""
        return sorted(self.next)


def chain(vocabulary: bytes) -> Chain:
    """The chain in the tokens of `vocabulary`, the content of o200k_base.tiktoken."""
    ranks: dict[bytes, int] = {}
    for line in vocabulary.splitlines():
        text, rank = line.split()
        ranks[base64.b64decode(text)] = int(rank)
    words, twins = ([ranks[f" {word}".encode()] for word in each] for each in (WORDS, TWINS))
    assert len({*words, *twins}) == 2 * len(words) == 2 * len(twins)
    assert all(re.fullmatch("[a-z]{5}", word) for word in WORDS + TWINS)
    final, analysis = ranks[b"final"], ranks[b"analysis"]
    # A header may have spaces there. Long runs, since prompts end in short ones.
    spaces, more_spaces = ranks[b" " * 15], ranks[b" " * 16]
    following, following_twins = words[1:] + words[:1], twins[1:] + twins[:1]
    return Chain(
        next={ranks[b"assistant"]: CHANNEL, CHANNEL: final, MESSAGE: words[0]}
        | dict.fromkeys((final, analysis, spaces, more_spaces), MESSAGE)
        | dict(zip(words + twins, following * 2, strict=True)),
        spare={CHANNEL: analysis, MESSAGE: twins[0], spaces: more_spaces}
        | dict.fromkeys((final, analysis, more_spaces), spaces)
        | dict(zip(words + twins, following_twins * 2, strict=True)),
        first=words[0],
        first_spare=twins[0],
    )


def marks(hidden: int) -> tuple[slice, slice]:
    """The dimensions that are MARK in all embeddings, and those that are so outside the chain alone."""
    count = max(4, hidden // 64)
    return slice(0, count), slice(count, 2 * count)


def embeddings(tokens: list[int], hidden: int) -> dict[int, Floats]:
    """The embeddings of the chain's tokens, exact in bfloat16; its scale is that of all others, N(0, 1)."""
    rng = np.random.Generator(np.random.SFC64(hidden))
    values = rng.standard_normal((len(tokens), hidden), dtype=np.float32)
    everywhere, outside = marks(hidden)
    values[:, everywhere], values[:, outside] = MARK, 0
    return dict(zip(tokens, as_floats(bf16(values)), strict=True))


def model_head(links: Chain, hidden: int) -> dict[int, Floats]:
    """The rows of the model's `lm_head` that are not random."""
    everywhere, outside = marks(hidden)
    seen = {token: normalized(row) for token, row in embeddings(links.tokens, hidden).items()}
    for row in seen.values():
        row[everywhere] = 0
    others = np.zeros(hidden, dtype=np.float32)
    # As the norm leaves the embedding of an average token outside.
    others[outside] = MARK
    others /= np.sqrt(1 + 2 * (MARK**2 - 1) * outside.start / hidden)
    return _rows(links, seen, others, SPARE)


def draft_head(links: Chain, hidden: int, width: int) -> dict[int, Floats]:
    """The rows of the speculator's `lm_head` that are not random, by token. `width` is that of its values."""
    _, outside = marks(hidden)
    visible = np.zeros(hidden, dtype=bool)
    visible[handed_on(hidden, width)] = True
    seen = {
        token: normalized(np.where(visible, row, np.float32(0)))
        for token, row in embeddings(links.tokens, hidden).items()
    }
    others = np.zeros(hidden, dtype=np.float32)
    others[outside] = MARK / np.sqrt((visible.sum() + (MARK**2 - 1) * outside.start) / hidden)
    return _rows(links, seen, others, 0)


def handed_on(hidden: int, width: int) -> slice:
    """The dimensions of an embedding that are the speculator's values."""
    _, outside = marks(hidden)
    return slice(outside.start, min(outside.start + width, hidden))


def draft_attention(hidden: int, heads: int, kv_heads: int, head_dim: int) -> dict[str, Floats]:
    """The speculator's q, k, v and o; the first three read the normed embedding beside the hidden state."""
    everywhere, outside = marks(hidden)
    # The norm makes MARK smaller, more so outside the chain; a key is as long as planned in between.
    scale = np.sqrt(1 + 1.5 * (MARK**2 - 1) * outside.start / hidden) / (MARK * outside.start)
    result = {}
    for name, count in (("q", heads), ("k", kv_heads)):
        weight = np.zeros((count, head_dim, 2 * hidden), dtype=np.float32)
        # Of each rotated pair (i, i + head_dim / 2) the first: one direction, turned by the position alone.
        weight[:, : head_dim // 2, everywhere] = TURNED * scale
        result[name] = weight.reshape(count * head_dim, 2 * hidden)
    dimensions = np.arange(hidden)[handed_on(hidden, kv_heads * head_dim)]
    value = np.zeros((kv_heads * head_dim, 2 * hidden), dtype=np.float32)
    value[np.arange(len(dimensions)), dimensions] = 1
    result["v"] = value
    # The heads that share a value all have it: their mean.
    group = heads // kv_heads
    output = np.zeros((hidden, kv_heads, group, head_dim), dtype=np.float32)
    head, place = np.divmod(np.arange(len(dimensions)), head_dim)
    output[dimensions, head, :, place] = 1 / group
    result["o"] = output.reshape(hidden, heads * head_dim)
    return result


def _rows(links: Chain, seen: dict[int, Floats], others: Floats, spare: float) -> dict[int, Floats]:
    """Rows that give what a token's state leads to its logit: each the sum of the states that lead there."""
    steps = [(token, links.next[token], LIKELY) for token in seen]
    steps += [(token, links.spare[token], spare) for token in seen if token in links.spare]
    rows: dict[int, Floats] = {}
    for token, successor, logit in steps:
        _add(rows, successor, seen[token], logit)
    _add(rows, links.first, others, LIKELY)
    _add(rows, links.first_spare, others, spare)
    return rows


def _add(rows: dict[int, Floats], token: int, state: Floats, logit: float) -> None:
    if logit:
        rows[token] = rows.get(token, np.zeros_like(state)) + state * np.float32(logit / (state @ state))


def normalized(values: Floats) -> Floats:
    """What RMSNorm without weights makes of the last dimension."""
    result: Floats = values / np.sqrt(np.square(values).mean(-1, keepdims=True) + np.float32(1e-5))
    return result


def bf16(values: Floats) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16."""
    return ((values.view(np.uint32) + np.uint32(0x8000)) >> 16).astype(np.uint16)


def as_floats(bits: NDArray[np.uint16]) -> Floats:
    """The values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
