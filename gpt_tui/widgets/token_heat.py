"""Heat: how unexpected a token was, by one of several measures, in six levels. Knows no widget."""

import math
from bisect import bisect_right

from gpt_model.token_record import Token

HEATS = ("off", "probability", "surprisal", "entropy", "rank")
LEVELS = 6

# Above how much each next level begins. All measures are turned so that more is less expected.
_LIMITS = {
    "probability": (0.2, 0.4, 0.6, 0.8, 0.95),  # of not being drawn: 1 - p
    "surprisal": (1.0, 2.0, 4.0, 6.0, 9.0),  # bits
    "entropy": (0.5, 1.5, 3.0, 4.5, 6.0),  # bits
    "rank": (1, 2, 5, 20, 100),
}


def heat_level(token: Token, heat: str) -> int:
    """Return a level from 0, expected, to 5.

    Raises:
        KeyError: `heat` is "off" or no measure.
    """
    limits = _LIMITS[heat]
    if heat == "probability":
        value = 1 - token.p_model
    elif heat == "surprisal":
        value = -math.log2(max(token.p_model, 1e-12))
    elif heat == "entropy":
        value = token.entropy / math.log(2)
    else:
        value = token.rank
    return bisect_right(limits, value)
