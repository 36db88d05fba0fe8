"""Presets: chains with a name. Data, and how a name is found; what people add of their own is handed in."""

from collections.abc import Mapping

from samplers.chain import Chain
from samplers.discovery import stage_names
from samplers.errors import ChainError, nearest

DEFAULT = "min_p=0.05,temperature=0.8"

PRESETS = {
    "default": DEFAULT,
    "model": "",
    "greedy": "greedy",
    # what the engines have by default, in their order; what they have switched off stands at its off value
    "llama.cpp": (
        "repetition_penalty:penalty=1:scope=all:window=64,frequency_penalty:penalty=0:scope=all:window=64,"
        "presence_penalty:penalty=0:scope=all:window=64,dry:multiplier=0:window=64,top_n_sigma=0,top_k=40,typical=1,"
        "top_p=0.95,min_p=0.05,xtc:probability=0,temperature=0.8"
    ),
    "transformers": (
        "repetition_penalty:penalty=1:scope=all,no_repeat_ngram:n=0,min_new_tokens=0,temperature=1,top_k=50,top_p=1,"
        "min_p=0,typical=1,epsilon=0,eta=0"
    ),
    "vllm": (
        "min_new_tokens=0,repetition_penalty:penalty=1:scope=all,frequency_penalty:penalty=0,"
        "presence_penalty:penalty=0,temperature=1,min_p=0,top_k=0,top_p=1"
    ),
}
"""Name → the chain's text, in its shortest form."""


def named_chain(text: str, own: Mapping[str, str] | None = None) -> Chain:
    """Return the chain of a text, which may be the name of a preset; `own` presets go before ours.

    A stage's name alone is that stage, so no preset of one's own can have it.

    Raises:
        ChainError: the chain cannot be; for a single word the nearest stage or preset is named.
    """
    word, presets = text.strip(), PRESETS | dict(own or {})
    if word in presets:
        return Chain.parse(presets[word])
    if word and not any(mark in word for mark in ',=:"') and word not in stage_names():
        raise ChainError(f"There is no stage and no preset '{word}'.{nearest(word, [*presets, *stage_names()])}")
    return Chain.parse(text)


def preset_of(chain: Chain, own: Mapping[str, str] | None = None) -> str:
    """Return the name of the preset that this chain is, one's own before ours; "" if it is none."""
    text, mine = str(chain), dict(own or {})
    return next((name for name, preset in (mine | {**PRESETS, **mine}).items() if preset == text), "")


def check_preset(name: str, text: str) -> str:
    """Return the text of a preset of one's own in its shortest form.

    Raises:
        ChainError: the chain cannot be, or the name cannot be told from a chain.
    """
    if not name or name != name.strip() or any(mark in name for mark in ',=:"'):
        raise ChainError(f"A preset cannot be called '{name}': it would be read as a chain.")
    if name in stage_names():
        raise ChainError(f"A preset cannot be called '{name}': that is a stage.")
    return str(Chain.parse(text))
