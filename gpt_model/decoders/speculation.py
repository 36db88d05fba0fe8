"""Speculation: guess some tokens, read them all in one pass, and keep those that come true.

What comes true is decided by drawing each token exactly as plain decoding would: from the model's own distribution
after the chain, by the number of its position. A guess is right when it is the token drawn. So the text is plain
decoding's, token for token and not only in distribution, and a sure guess is right as often as with the rejection
sampling of Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192.
"""

from collections.abc import Callable, Iterator

from gpt_model.decoding import Session, Step

_FIRST = 4
"""Tokens that are guessed at first; twice as many after all came true, half as many after none did."""
_LONGEST_REST = 16
"""Tokens for which nothing is guessed, at most, after guesses failed again and again."""


def speculate(session: Session, most: int, guess: Callable[[list[int], int], list[int]]) -> Iterator[Step]:
    """Yield plain decoding's steps, several a pass where guesses come true.

    Args:
        session: of one text.
        most: how many tokens are guessed at once.
        guess: given the text's tokens and a number, returns as many tokens that may come next, or fewer, or none.
    """
    yield session.step(session.read_prompt())
    count = min(_FIRST, most)
    rest = pause = 0  # tokens to go without a guess now, and after the next miss
    while True:
        fits = min(count, session.remaining - 1, session.room)
        guesses = guess(session.past.tokens, fits) if fits > 0 and not rest else []
        if not guesses:
            rest = max(rest - 1, 0)
            yield session.step(session.read_last())
            continue
        logits = session.read_ahead(guesses)  # (1 + n, V)
        right = 0
        for place in range(len(guesses) + 1):
            step = session.step(logits[place : place + 1])
            yield step
            if place == len(guesses) or step.drawn[0].id != guesses[place]:
                break
            right += 1
        session.keep(guesses, right)
        if right == len(guesses):
            count = min(2 * count, most)
        elif not right:
            count = max(count // 2, 1)
        # a guess that fails is a token read in vain
        rest, pause = (0, 0) if right else (pause, min(2 * pause + 1, _LONGEST_REST))
