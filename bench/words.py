"""A made-up vocabulary as large as Llama 3's, and prompts with a known number of tokens.

A word is three syllables, each from its own set of consonants: "badomu" can be cut in one way only, so that the merges
below reach every word whatever their order of ranks. Knows nothing of files, models or servers.
"""

import random
from itertools import product

VOWELS = "aeiouy"
FIRST, SECOND, THIRD = (
    [consonant + vowel for consonant, vowel in product(consonants, VOWELS)]
    for consonants in ("bcdfghj", "klmnpqr", "stvwxz")
)
SPACE = "Ġ"
N_TEXT_TOKENS = 128_000
N_SPECIAL_TOKENS = 256
N_VOCAB = N_TEXT_TOKENS + N_SPECIAL_TOKENS

NAMED_SPECIAL_TOKENS = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
}
BOS_TOKEN = N_TEXT_TOKENS
EOT_TOKEN = N_TEXT_TOKENS + 9

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def byte_characters() -> list[str]:
    """Return GPT-2's printable stand-in for each byte, in GPT-2's order of tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def text_tokens() -> tuple[list[str], list[str]]:
    """Return the text tokens in the order of their numbers, and the merges in the order of their ranks."""
    syllables = [(text[0], text[1]) for text in (*FIRST, *SECOND, *THIRD)]
    pairs = list(product(FIRST, SECOND))
    words = [(first + second, third) for first, second, third in product(FIRST, SECOND, THIRD)]
    unspaced = [*syllables, *pairs, *words]
    n_spaced = N_TEXT_TOKENS - 256 - len(unspaced)
    spaced = [(SPACE, left + right) for left, right in (*pairs, *words)[:n_spaced]]
    parts = [*unspaced, *spaced]
    return byte_characters() + [left + right for left, right in parts], [f"{left} {right}" for left, right in parts]


def special_tokens() -> list[str]:
    return [NAMED_SPECIAL_TOKENS.get(n, f"<|reserved_special_token_{n}|>") for n in range(N_SPECIAL_TOKENS)]


def prompt(n_tokens: int, seed: str) -> str:
    """Make a prompt of exactly `n_tokens` tokens of this vocabulary, the one at the beginning of the text included.

    Another seed differs from the first word on, so that no cached prefix helps.
    """
    # Only the words of the first syllables are sure to have a token with the space before them.
    choose = random.Random(seed).choice
    return " ".join(choose(FIRST[:-3]) + choose(SECOND) + choose(THIRD) for _ in range(n_tokens - 1))
