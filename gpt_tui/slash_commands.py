"""Commands typed into the prompt: `/seed 7`, `/top_k 5`, `/chain greedy`. Parses and names them; carries none out."""

from dataclasses import dataclass

from gpt_model.errors import ConfigError, did_you_mean
from samplers import Chain, Stage, build, load_stage, parameters, stage_names

COMMANDS = {
    "new": "start an empty document; the old one stays, one version back",
    "open": "open a checkpoint: /open NAME (a path, a model, RUN, RUN:best, RUN:STEP)",
    "chain": "replace the chain: /chain top_k=40,temperature=0.8, or a preset's name",
    "preset": "take a preset: /preset llama.cpp; /preset alone lists them",
    "decoder": "what drives the model: /decoder beam=4; /decoder alone is plain",
    "seed": "fix the seed: /seed 7; /seed alone draws a new one each time",
    "tokens": "how many tokens a completion has: /tokens 400",
    "dtype": "precision of the weights: /dtype int8 (auto, float32, float16, bfloat16, int8, int4)",
    "stop": "texts that end a completion: /stop END; /stop alone clears them",
    "save": "write the document to a file: /save FILE",
    "copy": "copy the document",
    "help": "all keys",
    "quit": "leave",
}


@dataclass(frozen=True)
class SlashCommand:
    """A command and what stands behind it."""

    name: str
    argument: str


def parse_command(text: str) -> SlashCommand | None:
    """Return the command of a prompt, or None when it is text. `//` at the start stands for a text's own slash.

    Raises:
        ConfigError: there is no such command; the nearest is named.
    """
    if not text.startswith("/") or text.startswith("//") or "\n" in text.strip():
        return None
    name, _, argument = text[1:].strip().partition(" ")
    if name in COMMANDS or name in stage_names():
        return SlashCommand(name, argument.strip())
    raise ConfigError(f"There is no command '/{name}'.{did_you_mean(name, [*COMMANDS, *stage_names()])}")


def with_stage_set(chain: Chain, name: str, argument: str) -> Chain:
    """Return the chain with a stage's first parameter set (`/top_k 5`), the stage added at the end if it is not there.

    Raises:
        ChainError: the stage or the value cannot be.
    """
    stage_class = load_stage(name)
    known = parameters(stage_class)
    values = {known[0].name: argument} if known and argument else {}
    place = next((place for place, stage in enumerate(chain) if isinstance(stage, stage_class)), None)
    if place is None:
        return chain.added(build(stage_class, values))
    old: Stage = chain.stages[place]
    return chain.with_stage(place, build(stage_class, {p.name: getattr(old, p.name) for p in known} | values))
