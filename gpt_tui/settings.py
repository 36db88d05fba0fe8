"""Settings: what a person wants to stay as it is, from five sources. Reads with tomllib, writes with tomli-w.

Precedence: flag > `GPT_TUI_*` in the environment > ./gpt-tui.toml > the user's settings.toml > default.
"""

import ast
import contextlib
import dataclasses
import inspect
import itertools
import os
import re
import time
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from gpt_model.config import DTYPES
from gpt_model.config_values import parse_value
from gpt_model.errors import ConfigError, did_you_mean
from gpt_tui.locations import Locations
from samplers import DECODER_GROUP, Chain, ChainError, check_preset, entries, named_chain


@dataclass(frozen=True)
class Settings:
    """Every setting, with its default. The same names are options, TOML keys and environment variables."""

    checkpoint: str = ""
    """The checkpoint to open: a path, a model, RUN, RUN:best … Empty: the newest, else the bundled model."""
    chain: str = "min_p=0.05,temperature=0.8"
    """The chain of stages that draws the next token, or a preset's name; `samplers presets` lists them."""
    presets: Mapping[str, str] = field(default_factory=dict)
    """Chains with names of your own: {"calm" = "top_p=0.8,temperature=0.6"}."""
    decoder: str = ""
    """What drives the model: plain, beam=4, contrastive, draft:model=CHECKPOINT … Empty: plain."""
    seed: int | None = None
    """The seed of every completion; none draws a new one each time, and says which."""
    max_new_tokens: int = 200
    """Tokens of a completion."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """Precision of the weights: auto, float32, float16, bfloat16, int8 or int4; `eval --dtype` tells the price."""
    threads: int = 0
    """CPU threads of the engine; 0 leaves the choice to the model's size."""
    engine: str = ""
    """The command that starts the app's engine, such as `ssh gpubox gpt-tui engine`. Empty: here, in this Python."""
    theme: str = "textual-dark"
    """The app's colours; the command palette lists them. ansi-dark and ansi-light use the terminal's own."""
    keymap: Mapping[str, str] = field(default_factory=dict)
    """Keys of your own, by a binding's id: {"complete.regenerate" = "f8"}. F1 shows what there is."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens = {self.max_new_tokens}: must be at least 1.")
        if self.threads < 0 or (self.seed is not None and self.seed < 0):
            name = "threads" if self.threads < 0 else "seed"
            raise ConfigError(f"{name} = {getattr(self, name)}: must not be negative.")
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise ConfigError(f"device = {self.device}: must be one of auto, cpu, cuda, mps.")
        if self.dtype not in DTYPES:
            hint = did_you_mean(self.dtype, DTYPES)
            raise ConfigError(f"dtype = {self.dtype}: must be one of {', '.join(DTYPES)}.{hint}")
        try:
            self.parsed_chain()
        except ChainError as error:
            raise ConfigError(f"chain = {self.chain}: {error}") from error
        decoder = _DECODER_NAME.split(self.decoder.strip(), maxsplit=1)[0]
        if decoder and decoder not in (known := entries(DECODER_GROUP)):  # the rest is its own, which needs torch
            raise ConfigError(
                f"decoder = {self.decoder}: there is no decoder '{decoder}'.{did_you_mean(decoder, known)}"
            )

    def parsed_chain(self) -> Chain:
        """Return the chain, or the one of the preset that is named."""
        return named_chain(self.chain, self.presets)


_DECODER_NAME = re.compile(r"\s*[=:]")

_PERSONAL = ("engine",)
"""Settings that run something. A directory that was downloaded must not do that by being entered."""


@dataclass(frozen=True)
class LoadedSettings:
    """Settings, where each came from, and what was wrong on the way."""

    settings: Settings
    origins: Mapping[str, str]
    problems: list[str]


def setting_types() -> dict[str, Any]:
    """Return the settings with their types, in order."""
    hints = typing.get_type_hints(Settings)
    return {each.name: hints[each.name] for each in dataclasses.fields(Settings)}


def setting_docs() -> dict[str, str]:
    """Return what each setting means, in order: the docstrings below the fields of `Settings`."""
    (definition,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: text
        for field, doc in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(text := doc.value.value, str)
    }


def load_settings(
    locations: Locations, environment: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None
) -> LoadedSettings:
    """Return the settings in force. What is wrong in a file or the environment is told in `problems` and left out.

    Raises:
        ConfigError: a flag is wrong; that is the person's own word of just now.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(setting_types(), "default")
    problems: list[str] = []
    files = [(file, *_read_table(file)) for file in (locations.settings_file, locations.project_file)]
    values["presets"] = {}
    for file, text, table, trouble in files:  # first of all, for a chain may be one of them
        problems += trouble
        if "presets" in table:
            _take_presets(table["presets"], str(file), values, origins, problems, f"{file}{_line_of('presets', text)}")
    for file, text, table, _ in files:
        for name, value in table.items():
            place = f"{file}{_line_of(name, text)}"
            if name in _PERSONAL and file == locations.project_file:
                problems.append(f"{place}: {name} runs a command, so only your own settings.toml can say it.")
            elif name != "presets":
                _take(name, value, str(file), values, origins, problems, place)
    for name in setting_types():
        variable = f"GPT_TUI_{name.upper()}"
        if variable in environment:
            _take(name, environment[variable], f"environment {variable}", values, origins, problems)
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = check_setting(name, value, values["presets"])
            origins[name] = "flag"
    return LoadedSettings(Settings(**values), origins, problems)


def check_setting(name: str, value: Any, presets: Mapping[str, str] | None = None) -> Any:
    """Return a value, given as text or as TOML has it, as the setting's type.

    Args:
        name: of the setting.
        value: what it is to be.
        presets: of the person's own; a chain may be one of them.

    Raises:
        ConfigError: there is no such setting (the nearest is named), or it cannot have this value.
    """
    types = setting_types()
    if name not in types:
        raise ConfigError(f"There is no setting '{name}'.{did_you_mean(name, types)}")
    kind = types[name]
    checked: Any
    if name == "chain" and isinstance(value, list):
        try:
            checked = str(Chain.from_toml(value))
        except (ChainError, TypeError) as error:
            raise ConfigError(f"chain: {error}") from error
    elif name == "stop":
        if not isinstance(value, str | list | tuple):
            raise ConfigError(f"stop = {value}: must be a text or a list of texts.")
        checked = tuple(str(stop) for stop in ([value] if isinstance(value, str) else value) if stop != "")
    elif name == "keymap":
        if not isinstance(value, Mapping):
            raise ConfigError("keymap must be a table of ids and keys; set it in the file (config edit).")
        checked = {str(key): str(keys) for key, keys in value.items()}
    elif name == "presets":
        if not isinstance(value, Mapping):
            raise ConfigError("presets must be a table of names and chains; set it in the file (config edit).")
        checked = {each: check_own_preset(each, chain) for each, chain in value.items()}
    else:
        checked = parse_value(name, "" if value is None else str(value), kind)
    Settings(**{"presets": presets or {}, name: checked})  # its own limits
    return checked


def check_own_preset(name: str, chain: Any) -> str:
    """Return the text of a preset, which is given as text or as an array of tables.

    Raises:
        ConfigError: the chain cannot be, or the name.
    """
    try:
        return check_preset(name, str(Chain.from_toml(chain)) if isinstance(chain, list) else str(chain))
    except (ChainError, TypeError) as error:
        raise ConfigError(f"presets: {name}: {error}") from error


def save_setting(locations: Locations, name: str, value: Any) -> str:
    """Write one setting into the user's file, in one step; everything else in it stays, comments too.

    Where the setting's own lines cannot be told from the others, the file is written anew and a copy is kept as
    settings.toml.before-TIME.
    A file that cannot be read is kept aside as settings.toml.damaged-TIME before a new one takes its place.
    Returns a sentence about what was kept aside, and why; an empty text when nothing was.

    Raises:
        ConfigError: there is no such setting, or it cannot have this value, or the file cannot be written.
    """
    checked = check_setting(name, value, load_settings(locations, {}).settings.presets if name == "chain" else None)
    file = locations.settings_file
    text, table, trouble = _read_table(file)
    told = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if trouble and file.exists():
            aside = file.rename(file.with_name(f"{file.name}.damaged-{int(time.time())}"))
            told = f"{file} could not be read, so a new one was begun; the old one is {aside}."
        table[name] = list(checked) if isinstance(checked, tuple) else checked
        if checked is None:
            del table[name]
        edited = _with_setting(text, name, table.get(name))
        if not _reads_as(edited, table):  # spelled in a way that a line's replacement does not reach
            if text:
                before = file.with_name(f"{file.name}.before-{int(time.time())}")
                write_text_atomically(before, text)
                told = f"{file} was written anew, without its comments; as it was, it is {before}."
            edited = tomli_w.dumps(table)
        write_text_atomically(file, edited)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}.") from error
    return told


def _with_setting(text: str, name: str, value: Any) -> str:
    """Return a TOML text with one line set, added before the first table, or taken away when there is no value."""
    line = "" if value is None else tomli_w.dumps({name: value})
    pattern = re.compile(rf"^[ \t]*{re.escape(name)}[ \t]*=[^\n]*\n?", re.MULTILINE)
    if pattern.search(text):
        return pattern.sub(lambda match: line, text, count=1)
    table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    cut = table.start() if table else len(text)
    head = text[:cut] + ("" if text[:cut].endswith("\n") or not text[:cut] else "\n")
    return head + line + text[cut:]


def _reads_as(text: str, table: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == table
    except tomllib.TOMLDecodeError:
        return False


def write_text_atomically(file: Path, text: str) -> None:
    """Replace a file in one step: it has the old text or the new one, whatever happens in between."""
    file = file.resolve()  # a link into somebody's dotfiles stays a link
    staging = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with staging.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        staging.replace(file)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)


def _read_table(file: Path) -> tuple[str, dict[str, Any], list[str]]:
    """Return a file's text, its table, and what is wrong with it; a missing file is an empty one."""
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text), []
    except FileNotFoundError:
        return "", {}, []
    except tomllib.TOMLDecodeError as error:  # its message ends with "(at line 3, column 7)"
        return "", {}, [f"{file} is damaged: {error}. It is left out; mend it with: gpt-tui config edit"]
    except (OSError, UnicodeDecodeError) as error:
        return "", {}, [f"{file} cannot be read: {error}. It is left out."]


def _line_of(name: str, text: str) -> str:
    """Return ", line N" for a key or a table at the top of a TOML text; nothing where it is spelled in another way."""
    key = re.escape(name)
    found = re.search(rf"""^[ \t]*(?:["']?{key}["']?[ \t]*[.=]|\[\[?[ \t]*{key}[ \t]*\])""", text, re.MULTILINE)
    return f", line {text.count(chr(10), 0, found.start()) + 1}" if found else ""


def _take(
    name: str, value: Any, origin: str, values: dict[str, Any], origins: dict[str, str], problems: list[str],
    place: str = "",
) -> None:  # fmt: skip
    """Put a value in force, or tell what is wrong with it and where it stands."""
    try:
        values[name] = check_setting(name, value, values["presets"])
        origins[name] = origin
    except ConfigError as error:
        problems.append(f"{place or origin}: {error} It is left out.")


def _take_presets(
    table: Any, origin: str, values: dict[str, Any], origins: dict[str, str], problems: list[str], place: str
) -> None:
    """Put the presets of a file in force, each by itself."""
    if not isinstance(table, Mapping):
        _take("presets", table, origin, values, origins, problems, place)
        return
    for name, chain in table.items():
        try:
            values["presets"] = values["presets"] | {name: check_own_preset(name, chain)}
            origins["presets"] = origin
        except ConfigError as error:
            problems.append(f"{place}: {error} It is left out.")
