"""The errors that people are told about.

    GptError                  something expected went wrong; the message says what, where and what to do
    ├── ConfigError           a configuration or a setting that cannot be
    ├── DataError             a text that cannot be trained on or scored
    ├── TokenizerError        a vocabulary that cannot be built, found or read
    ├── CheckpointError       a checkpoint that is missing, damaged or not a GPT-2
    │   └── DamageError       one whose files are not those that were saved
    ├── RunError              a run that cannot be created, found, locked or commanded
    └── GenerationError       a request that cannot be generated

Every message is whole sentences for a person; no caller adds to it. Anything that is not a `GptError` is a bug
and is never swallowed.
"""

from collections.abc import Iterable


class GptError(Exception):
    """An expected failure, told in a sentence that says what happened, where, and what to do."""


class ConfigError(GptError):
    """A configuration value, key or file that cannot be used."""


class DataError(GptError):
    """A text that cannot be trained on or scored."""


class TokenizerError(GptError):
    """A vocabulary that cannot be built, found or read."""


class CheckpointError(GptError):
    """A checkpoint that is missing, damaged, or of another architecture."""


class DamageError(CheckpointError):
    """A checkpoint whose files are not those that were saved: it will never be whole again."""


class RunError(GptError):
    """A run that cannot be created, found, locked or commanded."""


class GenerationError(GptError):
    """A generation request that cannot be carried out."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest of `known`, or a list of them when nothing is near."""
    from samplers.errors import nearest  # here, because the command line imports this module for `--help` too

    return nearest(word, known)
