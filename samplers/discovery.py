"""Which plugins there are: entry points of a group, listed without importing any of them; stages above all."""

import functools
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from samplers.errors import ChainError, nearest
from samplers.stage import parameters

GROUP = "gpt_tui.samplers"
DECODER_GROUP = "gpt_tui.decoders"
HOME = "gpt-tui"


@dataclass(frozen=True)
class StageEntry:
    """A plugin as its distribution announces it; nothing of it has been imported."""

    name: str
    distribution: str
    version: str
    entry_point: EntryPoint

    @property
    def target(self) -> str:
        """Where the class is: `package.module:Class`."""
        return self.entry_point.value


@functools.cache
def entries(group: str) -> dict[str, StageEntry]:
    """Return every announced plugin of a group by name, sorted.

    Where two claim a name, ours keeps it and the other is called `name@distribution`.
    """
    found = []
    for point in entry_points(group=group):
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else "?"
        found.append(StageEntry(point.name, distribution, version, point))
    known: dict[str, StageEntry] = {}
    for entry in sorted(found, key=lambda each: (each.distribution != HOME, each.distribution, each.name)):
        taken = entry.name in known and known[entry.name].target != entry.target
        known[f"{entry.name}@{entry.distribution}" if taken else entry.name] = entry
    return dict(sorted(known.items()))


@functools.cache
def load(group: str, name: str, kind: str, method: str) -> type:
    """Import and return the class of one plugin, whose instances have `method`; `kind` is what people call it.

    Raises:
        ChainError: no such plugin (the nearest is named), or it cannot be imported or breaks the contract.
    """
    known = entries(group)
    if name not in known:
        raise ChainError(f"There is no {kind} '{name}'.{nearest(name, known)}")
    entry = known[name]
    whose = f"The {kind} '{name}' of {entry.distribution} {entry.version} ({entry.target})"
    try:
        loaded = entry.entry_point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit while it is imported; it must not end us
        raise ChainError(f"{whose} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(loaded, type) or not any(method in vars(base) for base in loaded.__mro__):
        wanted = "can be called" if method == "__call__" else f"have '{method}'"
        raise ChainError(f"{whose} is not a class whose instances {wanted}.")
    try:
        parameters(loaded)
    except TypeError as error:
        raise ChainError(f"{whose} breaks the contract: {error}.") from error
    except Exception as error:  # annotations that cannot be read
        raise ChainError(f"{whose} breaks the contract: {type(error).__name__}: {error}.") from error
    if not isinstance(getattr(loaded, "name", None), str):
        raise ChainError(f"{whose} has no class attribute 'name'.")
    return loaded


def stage_entries() -> dict[str, StageEntry]:
    """Return every announced stage by name, sorted."""
    return entries(GROUP)


def stage_names() -> list[str]:
    """Return the names of all announced stages, sorted."""
    return list(stage_entries())


def load_stage(name: str) -> type:
    """Import and return one stage's class.

    Raises:
        ChainError: no such stage (the nearest is named), or its plugin cannot be imported or breaks the contract.
    """
    return load(GROUP, name, "stage", "__call__")


def load_decoder(name: str) -> type:
    """Import and return one decoder's class; ours import torch.

    Raises:
        ChainError: no such decoder (the nearest is named), or its plugin cannot be imported or breaks the contract.
    """
    return load(DECODER_GROUP, name, "decoder", "decode")
