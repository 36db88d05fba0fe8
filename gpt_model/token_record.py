"""Token and Finished: what generating one token yields, in one schema everywhere (iterator, wire, --jsonl, sessions).

Knows no torch: the app's process reads these records without it.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

FinishReason = Literal["length", "stop", "end_of_text", "cancel", "error"]


class Candidate(NamedTuple):  # ten a token: a dataclass is made four times as slowly
    """A token that could have been drawn."""

    id: int
    text: str
    p_model: float
    """Its probability before the chain."""
    p_chain: float
    """Its probability after the chain; 0 when a stage cut it."""
    cut_by: str = ""
    """The stage that cut it, when accounts are asked for."""


class Account(NamedTuple):
    """What one stage of the chain left."""

    stage: str
    kept: int
    """Candidates left."""
    mass: float
    """The model's probability that is left."""
    milliseconds: float
    entropy: float = 0.0
    """Of what is left, in nats."""
    threshold: float | None = None
    """Where it cut at one number: that number, of logits as they were then."""
    off: bool = False
    """Whether it is set to change nothing."""
    cut: tuple[int, ...] = ()
    """Ids of the token's candidates that it took out."""
    shares: tuple[float, ...] = ()
    """The candidates' probabilities after it, in their order, to four digits."""


@dataclass(frozen=True)
class Token:
    """One generated token."""

    sample: int
    """Which of the request's samples it belongs to, from 0."""
    index: int
    """How many tokens of this sample were generated before it."""
    position: int
    """How many tokens, prompt included, stand before it. The draw depends on the sample's seed and on this alone."""
    id: int
    text: str
    """The text that became certain with it: empty while a character is half-finished or may begin a stop text."""
    p_model: float
    """Probability before the chain."""
    p_chain: float
    """Probability after the chain."""
    rank: int
    """How many tokens the model held likelier, from 0."""
    entropy: float
    """Of the model's distribution, in nats."""
    uniform: float
    """The number in [0, 1) that drew it."""
    milliseconds: float
    """Since the token before, or since the prompt was read."""
    candidates: tuple[Candidate, ...] = ()
    """The model's most likely tokens, best first."""
    accounts: tuple[Account, ...] = ()
    """What each stage did, when asked for."""
    chain: str | None = None
    """The chain, where it is another than the token's before."""
    faults: tuple[str, ...] = ()
    """Stages that were bypassed for this token, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values; what is empty is left out."""
        always = ("sample", "index", "position", "id", "text", "p_model", "p_chain", "rank", "entropy", "uniform")
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("candidates", "accounts"):
            values[name] = [_to_dict(each) for each in values[name]]
        return {name: value for name, value in values.items() if value or name in always}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Token":
        """Return the token that `to_dict` wrote, also after a passage through JSON."""
        nested = {
            "candidates": tuple(Candidate(**each) for each in values.get("candidates", ())),
            "accounts": tuple(_account(each) for each in values.get("accounts", ())),
            "faults": tuple(values.get("faults", ())),
        }
        return cls(**{"milliseconds": 0.0} | values | nested)


def _to_dict(record: Candidate | Account) -> dict[str, Any]:
    """Return a record as plain values; what stands at its default is left out."""
    defaults = record._field_defaults
    return {name: value for name, value in record._asdict().items() if name not in defaults or value != defaults[name]}


def _account(values: dict[str, Any]) -> Account:
    return Account(**values | {name: tuple(values.get(name, ())) for name in ("cut", "shares")})


@dataclass(frozen=True)
class Finished:
    """The end of one sample."""

    sample: int
    finish_reason: FinishReason
    text: str
    """What was held back and belongs to the text: the token texts and this, joined, are the sample's text."""
    tokens: int
    """How many were generated."""
    seed: int
    """The sample's own seed: a request for this one sample with this seed repeats it."""
    prompt_seconds: float
    """Time to read the prompt."""
    seconds: float
    """Time to generate the tokens."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Finished":
        """Return what `to_dict` wrote."""
        return cls(**values)
