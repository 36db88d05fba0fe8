"""The engine's side of the wire: reads requests from standard input, writes events to standard output.

One thread reads, so that Cancel and SwitchChain act between two tokens; the main thread computes. torch is imported
after the first event has been sent. When standard input ends, nobody is there to answer, and the process ends.
"""

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, TextIO

from gpt_model.errors import CheckpointError, GptError
from gpt_model.head_start import begin_opening
from gpt_model.token_record import Token
from gpt_tui import wire
from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.decoder_choice import open_decoder
from gpt_tui.locations import find_locations
from samplers import Chain, ChainError

if TYPE_CHECKING:
    from gpt_model.generation import Engine


def main() -> int:
    """Serve requests until standard input ends; return the exit code."""
    # The wire keeps the real standard output to itself: what a library prints must not end up between two messages.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _Server(out).serve(sys.stdin)
    return 0


class _Server:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._work: queue.SimpleQueue[wire.Load | wire.Generate | None] = queue.SimpleQueue()
        self._cancel = threading.Event()
        self._chain = Chain()
        self._engine: Engine | None = None

    def serve(self, requests: TextIO) -> None:
        self._send(wire.EngineStarted(os.getpid()))
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        while (work := self._work.get()) is not None:
            request = work.request if isinstance(work, wire.Generate) else None
            try:
                if isinstance(work, wire.Load):
                    self._load(work)
                else:
                    self._generate(work)
            except (GptError, ChainError) as error:
                self._send(wire.EngineFailed(str(error), request))
            except BrokenPipeError:
                return
            except Exception as error:  # a bug or the machine's limits (memory, GPU): told, and the process lives on
                traceback.print_exc()
                self._send(wire.EngineFailed(f"The engine failed: {type(error).__name__}: {error}", request))

    def _read(self, requests: TextIO) -> None:
        for line in requests:
            try:
                message = wire.from_line(line)
                if isinstance(message, wire.Cancel):
                    self._cancel.set()
                elif isinstance(message, wire.SwitchChain):
                    self._chain = Chain.parse(message.chain)
                elif isinstance(message, wire.Load | wire.Generate):
                    self._work.put(message)
            except (GptError, ChainError) as error:
                self._send(wire.EngineFailed(str(error)))
        self._cancel.set()
        self._work.put(None)

    def _load(self, load: wire.Load) -> None:
        began = time.perf_counter()
        chosen = resolve_checkpoint(load.checkpoint, find_locations())

        begin_opening(chosen.path, load.device, load.dtype)
        from gpt_model.backend import open_model
        from gpt_model.generation import Engine

        opened = open_model(
            chosen.path, load.device, load.dtype, load.threads, load.tokenizer,
            tell=lambda sentence: self._send(wire.EngineTold(sentence)),
        )  # fmt: skip
        tokenizer, backend = opened.with_tokenizer(chosen.path), opened.backend
        self._engine = Engine(opened.model, tokenizer)
        shape = opened.model.config
        loaded = wire.CheckpointLoaded(
            label=chosen.label, path=str(chosen.path), parameters=shape.parameter_count, n_layer=shape.n_layer,
            n_head=shape.n_head, n_embd=shape.n_embd, block_size=shape.block_size, tokenizer=tokenizer.name,
            device=backend.device, seconds=time.perf_counter() - began,
            dtype=backend.dtype, backend=str(backend), note=backend.note,
        )  # fmt: skip
        self._send(loaded)

    def _generate(self, work: wire.Generate) -> None:
        from gpt_model.generation import Request

        if self._engine is None:
            raise CheckpointError("No checkpoint is open, so there is nothing to generate with. Open one first.")
        self._cancel.clear()
        self._chain = Chain.parse(work.chain)
        decoder = open_decoder(work.decoder, find_locations())
        text = self._engine.encode(work.prompt) if work.prompt or not work.tokens else []
        prompt = (*work.tokens, *text)
        self._send(wire.PromptRead(work.request, prompt))
        request = Request(
            prompt, self._chain, work.seed, max_new_tokens=work.max_new_tokens, stop=work.stop, account=work.account,
            decoder=decoder,
        )  # fmt: skip
        for event in self._engine.generate(request, lambda: self._chain, self._cancel):
            if isinstance(event, Token):
                self._send(wire.TokenArrived(work.request, event))
            else:
                self._send(wire.GenerationFinished(work.request, event))

    def _send(self, event: wire.Event) -> None:
        with contextlib.suppress(ValueError):  # the stream is closed while the process ends
            self._out.write(wire.to_line(event) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
