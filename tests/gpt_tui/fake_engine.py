"""A program that speaks the wire without a model: it answers every prompt with the letters a, b, c … as fast as told.

`python fake_engine.py SECONDS_A_TOKEN`. The chain in force shows in the text: `greedy` writes capitals.
"""

import sys
import threading
import time

from gpt_model.token_record import Candidate, Finished, Token
from gpt_tui import wire

state = {"chain": "", "cancelled": False}
lock = threading.Lock()


def send(event: wire.Event) -> None:
    with lock:
        print(wire.to_line(event), flush=True)


def write(ask: wire.Generate, pause: float) -> None:
    state.update(chain=ask.chain, cancelled=False)
    prompt = (*ask.tokens, *ask.prompt.encode())
    send(wire.PromptRead(ask.request, prompt))
    shown, index = None, 0
    for index in range(ask.max_new_tokens):
        if state["cancelled"]:
            break
        chain = str(state["chain"])
        letter = chr((65 if chain == "greedy" else 97) + index % 26)
        top = (Candidate(ord(letter), letter, 0.5, 0.75), Candidate(33, "!", 0.25, 0.0))
        new = chain if chain != shown else None
        token = Token(0, index, len(prompt) + index, ord(letter), letter, 0.5, 0.75, 0, 1.0, 0.5, 1.0, top, (), new)
        send(wire.TokenArrived(ask.request, token))
        shown = chain
        time.sleep(pause)
    reason = "cancel" if state["cancelled"] else "length"
    send(wire.GenerationFinished(ask.request, Finished(0, reason, "", index + 1, ask.seed, 0.0, 1.0)))


def main() -> None:
    pause = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    send(wire.EngineStarted(1))
    for line in sys.stdin:
        message = wire.from_line(line)
        if isinstance(message, wire.Load) and message.checkpoint == "broken":
            send(wire.EngineFailed("There is no checkpoint 'broken'."))
        elif isinstance(message, wire.Load):
            send(wire.CheckpointLoaded(message.checkpoint or "fake", "/fake", 10, 1, 1, 4, 1024, "bytes", "cpu", 0.1))
        elif isinstance(message, wire.Generate):
            threading.Thread(target=write, args=(message, pause), daemon=True).start()
        elif isinstance(message, wire.SwitchChain):
            state["chain"] = message.chain
        elif isinstance(message, wire.Cancel):
            state["cancelled"] = True


if __name__ == "__main__":
    main()
