"""Which stages there are: entry points of the group "gpt_tui.samplers", listed without importing any of them."""

import functools
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from samplers.errors import ChainError, nearest
from samplers.stage import parameters

GROUP = "gpt_tui.samplers"
HOME = "gpt-tui"


@dataclass(frozen=True)
class StageEntry:
    """A stage as its distribution announces it; nothing of it has been imported."""

    name: str
    distribution: str
    version: str
    entry_point: EntryPoint

    @property
    def target(self) -> str:
        """Where the class is: `package.module:Class`."""
        return self.entry_point.value


@functools.cache
def stage_entries() -> dict[str, StageEntry]:
    """Return every announced stage by name, sorted.

    Where two claim a name, ours keeps it and the other is called `name@distribution`.
    """
    found = []
    for point in entry_points(group=GROUP):
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else "?"
        found.append(StageEntry(point.name, distribution, version, point))
    entries: dict[str, StageEntry] = {}
    for entry in sorted(found, key=lambda each: (each.distribution != HOME, each.distribution, each.name)):
        taken = entry.name in entries and entries[entry.name].target != entry.target
        entries[f"{entry.name}@{entry.distribution}" if taken else entry.name] = entry
    return dict(sorted(entries.items()))


def stage_names() -> list[str]:
    """Return the names of all announced stages, sorted."""
    return list(stage_entries())


@functools.cache
def load_stage(name: str) -> type:
    """Import and return one stage's class.

    Raises:
        ChainError: no such stage (the nearest is named), or its plugin cannot be imported or breaks the contract.
    """
    entries = stage_entries()
    if name not in entries:
        raise ChainError(f"There is no stage '{name}'.{nearest(name, entries)}")
    entry = entries[name]
    whose = f"The stage '{name}' of {entry.distribution} {entry.version} ({entry.target})"
    try:
        stage_class = entry.entry_point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit while it is imported; it must not end us
        raise ChainError(f"{whose} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(stage_class, type) or not any("__call__" in vars(base) for base in stage_class.__mro__):
        raise ChainError(f"{whose} is not a class whose instances can be called.")
    try:
        parameters(stage_class)
    except TypeError as error:
        raise ChainError(f"{whose} breaks the contract: {error}.") from error
    if not isinstance(getattr(stage_class, "name", None), str):
        raise ChainError(f"{whose} has no class attribute 'name'.")
    return stage_class
