"""Completion: the state of the completion page without the page. Document, chain, seed, and the stream into it.

The page shows it and feeds it the engine's events; it says what to send. No Textual in here.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpt_model.token_record import Finished, Token
from gpt_tui import wire
from gpt_tui.document import Document, Timeline
from gpt_tui.settings import check_setting
from gpt_tui.slash_commands import SlashCommand, with_stage_set
from samplers import PRESETS, Chain, ChainError, named_chain, preset_of
from samplers.errors import nearest


def new_seed() -> int:
    """Return a seed that nobody has chosen, short enough to be read out."""
    return secrets.randbelow(1_000_000)


@dataclass
class Completion:
    """What is being written, and with what."""

    chain: Chain
    max_new_tokens: int = 200
    fixed_seed: int | None = None
    """The seed of every completion; None draws a new one each time."""
    stop: tuple[str, ...] = ()
    presets: Mapping[str, str] = field(default_factory=dict)
    """The person's own."""
    decoder: str = ""
    """What drives the model; empty: one token after the other."""
    timeline: Timeline = field(default_factory=Timeline)
    seed: int | None = None
    """Of the completion on screen."""
    request: int = 0
    streaming: bool = False
    count: int = 0
    """Tokens of the completion on screen."""
    prompt_tokens: int = 0
    began: float = 0.0
    seconds: float = 0.0
    """How long the completion took; while it streams, see `rate`."""

    @property
    def document(self) -> Document:
        """The version on screen."""
        return self.timeline.current

    def start(self, prompt: str) -> wire.Generate:
        """Go on from the document with a person's text behind it; a new version is begun for it."""
        document = self.timeline.branch()
        document.write(prompt)
        return self._request(self.fixed_seed if self.fixed_seed is not None else new_seed())

    def regenerate(self, same_seed: bool) -> wire.Generate | None:
        """Write the model's last piece again; None when there is none."""
        document = self.document.copy()
        if not document.drop_completion():
            return None
        self.timeline.branch(document)
        same = same_seed and self.seed is not None
        return self._request(self.seed if same and self.seed is not None else new_seed())

    def accepts(self, request: int | None) -> bool:
        """Whether an event belongs to the stream that is awaited."""
        return self.streaming and request == self.request

    def prompt_read(self, ids: tuple[int, ...]) -> None:
        """Take in the ids of the prompt."""
        self.document.begin_completion(ids)
        self.prompt_tokens = len(ids)
        self.began = time.monotonic()

    def token_arrived(self, token: Token) -> None:
        """Take in a token."""
        self.document.add(token)
        self.count += 1

    def finish(self, finished: Finished | None) -> None:
        """Close the stream: with its end, or with None when the engine is gone."""
        self.streaming = False
        self.seconds = finished.seconds if finished else time.monotonic() - self.began
        self.document.end_completion(finished)

    @property
    def rate(self) -> float | None:
        """Tokens a second."""
        seconds = time.monotonic() - self.began if self.streaming else self.seconds
        return self.count / seconds if self.count and seconds > 0 else None

    @property
    def context(self) -> int:
        """Tokens that the model has read or written."""
        return self.prompt_tokens + self.count

    def carry_out(self, command: SlashCommand) -> dict[str, object]:
        """Set what a command sets; return the settings that are to be kept.

        Raises:
            ChainError: the chain or the stage cannot be.
            ConfigError: the number cannot be.
        """
        name, argument = command.name, command.argument
        if name == "seed":
            self.fixed_seed = check_setting("seed", argument)
            return {}
        if name == "stop":
            self.stop = (argument,) if argument else ()
            return {}
        if name == "dtype":
            return {"dtype": check_setting("dtype", argument)}
        if name == "tokens":
            self.max_new_tokens = check_setting("max_new_tokens", argument)
            return {"max_new_tokens": self.max_new_tokens}
        if name == "decoder":
            self.decoder = check_setting("decoder", "" if argument == "plain" else argument)
            return {"decoder": self.decoder}
        known = PRESETS | dict(self.presets)
        if name == "preset" and argument not in known:
            raise ChainError(f"There is no preset '{argument}'.{nearest(argument, known)}")
        if name in ("chain", "preset"):
            self.chain = named_chain(argument, self.presets)
            return {"chain": argument if argument in known else str(self.chain)}
        self.chain = with_stage_set(self.chain, name, argument)
        return {"chain": str(self.chain)}

    @property
    def preset(self) -> str:
        """The name of the preset that the chain is; "" if it is none."""
        return preset_of(self.chain, self.presets)

    def numbers(self, block_size: int | None) -> tuple[list[str], list[str]]:
        """Return what the status line says, at its left and at its right; numbers keep their width."""
        rate = self.rate
        left = [
            f"{self.count:>4}/{self.max_new_tokens} tok",
            f"{rate:>6,.0f} tok/s" if rate else "     – tok/s",
            f"context {min(self.context, block_size or 0):>4}/{block_size or '–'}",
            f"seed {next((str(seed) for seed in (self.seed, self.fixed_seed) if seed is not None), '–')}",
        ]
        version, versions = self.timeline.place
        return left, [f"version {version}/{versions}"] if versions > 1 else []

    def _request(self, seed: int) -> wire.Generate:
        self.request += 1
        self.seed, self.streaming, self.count, self.began = seed, True, 0, time.monotonic()
        prompt, ids = self.document.request_parts()
        return wire.Generate(
            self.request, prompt, ids, str(self.chain), seed, self.max_new_tokens, self.stop, decoder=self.decoder
        )
