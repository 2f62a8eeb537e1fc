"""The gpt-oss tokenizer for Hugging Face, built from the vocabulary file that openai-harmony reads too."""

from pathlib import Path

FIRST_SPECIAL = 199998
NUM_TOKENS = 201088
HARMONY_TOKENS = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
}
PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# vLLM renders harmony itself; this serves what asks the tokenizer: plain messages without tools or reasoning.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|start|>{{ message.role }}"
    "{%- if message.role == 'assistant' -%}<|channel|>final{%- endif -%}"
    "<|message|>{{ message.content }}<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"
)


def write_tokenizer(vocabulary: Path, folder: Path) -> None:
    """Write `tokenizer.json` and its companions.

    Args:
        vocabulary: the file `o200k_base.tiktoken`.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    special = [
        HARMONY_TOKENS.get(token, f"<|reserved_{token}|>") for token in range(FIRST_SPECIAL, NUM_TOKENS)
    ]
    converter = TikTokenConverter(vocab_file=str(vocabulary), pattern=PATTERN, extra_special_tokens=special)  # type: ignore[no-untyped-call]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(),  # type: ignore[no-untyped-call]
        bos_token="<|startoftext|>",
        eos_token="<|return|>",
        pad_token="<|endoftext|>",
    )
    if len(tokenizer) != NUM_TOKENS or tokenizer.convert_tokens_to_ids("<|call|>") != 200012:
        raise RuntimeError(f"the tokenizer came out with {len(tokenizer)} tokens, not {NUM_TOKENS}")
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
