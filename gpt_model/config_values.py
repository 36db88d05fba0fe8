"""Configuration dataclasses as text and as TOML tables: fields by name, values checked by type. Knows no torch."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from gpt_model.errors import ConfigError, did_you_mean

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

Model = TypeVar("Model", bound="DataclassInstance")
Train = TypeVar("Train", bound="DataclassInstance")


def apply_settings(model: Model, train: Train, settings: Mapping[str, str]) -> tuple[Model, Train]:
    """Return both configurations with the named fields replaced by values parsed from text (`--set name=value`).

    Raises:
        ConfigError: a name is unknown (the nearest one is in the message), or a value has the wrong type or range.
    """
    of_model, of_train = field_types(type(model)), field_types(type(train))
    model_changes: dict[str, Any] = {}
    train_changes: dict[str, Any] = {}
    for name, text in settings.items():
        if name in of_model:
            model_changes[name] = parse_value(name, text, of_model[name])
        elif name in of_train:
            train_changes[name] = parse_value(name, text, of_train[name])
        else:
            raise ConfigError(
                f"There is no option '{name}' of a model or a run.{did_you_mean(name, {**of_model, **of_train})}"
            )
    return dataclasses.replace(model, **model_changes), dataclasses.replace(train, **train_changes)


def field_types(config_class: type) -> dict[str, Any]:
    """Return the fields of a configuration dataclass with their types, in order."""
    hints = typing.get_type_hints(config_class)
    return {each.name: hints[each.name] for each in dataclasses.fields(config_class)}


def parse_value(name: str, text: str, kind: Any) -> Any:
    """Return `text` as a value of `kind` (int, float, bool, str, a Literal, or one of them or None).

    Raises:
        ConfigError: it is not such a value.
    """
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if text not in options:
            raise ConfigError(f"{name} = {text}: must be one of {', '.join(options)}.")
        return text
    if type(None) in options:
        if text.strip().lower() in ("", "none"):
            return None
        (kind,) = (each for each in options if each is not type(None))
    if kind is bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.strip().lower() not in words:
            raise ConfigError(f"{name} = {text}: must be true or false.")
        return words[text.strip().lower()]
    try:
        if kind is int:
            number = float(text.replace("_", ""))  # so that 2e3 is two thousand steps
            if number != int(number):
                raise ValueError
            return int(text.replace("_", "")) if text.replace("_", "").lstrip("+-").isdigit() else int(number)
        return kind(text)
    except (ValueError, OverflowError):
        what = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise ConfigError(f"{name} = {text}: must be {what}.") from None


def to_table(config: Any) -> dict[str, Any]:
    """Return a configuration as a TOML table; what is None is left out."""
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def from_table(config_class: type[Model], table: Mapping[str, Any]) -> Model:
    """Return a configuration from a TOML table.

    Raises:
        ConfigError: a key is unknown (the nearest one is in the message) or a value has the wrong type or range.
    """
    known = field_types(config_class)
    values = {}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"There is no option '{name}' in a {config_class.__name__}.{did_you_mean(name, known)}")
        values[name] = parse_value(name, str(value), known[name])
    return config_class(**values)
