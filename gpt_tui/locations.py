"""Where things live; of the cache gpt_model/cache_directory.py knows. `GPT_TUI_HOME` moves all under one directory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gpt_model.errors import ConfigError

BUNDLED = "shakespeare-mini"
"""The name of the model that comes with the package."""


@dataclass(frozen=True)
class Locations:
    """Directories and files of one person on one machine. They are made when something is written to them."""

    settings_file: Path
    project_file: Path
    """`gpt-tui.toml` in the working directory."""
    runs: Path
    models: Path
    sessions: Path
    state: Path
    """History, logs, the last copied text."""


def find_locations(environment: Mapping[str, str] = os.environ) -> Locations:
    """Return the locations: under `GPT_TUI_HOME` if it is set, else where the platform keeps such things (XDG).

    Raises:
        ConfigError: `GPT_TUI_HOME` names what is no directory.
    """
    project_file = Path("gpt-tui.toml")
    if home := environment.get("GPT_TUI_HOME"):
        root = Path(home).expanduser().absolute()
        if root.exists() and not root.is_dir():
            raise ConfigError(f"GPT_TUI_HOME = {home}: is no directory. Name one, or one that is to be made.")
        return Locations(
            root / "settings.toml", project_file, root / "runs", root / "models", root / "sessions", root / "state"
        )
    from platformdirs import PlatformDirs

    places = PlatformDirs("gpt-tui", appauthor=False)
    data = places.user_data_path
    return Locations(
        places.user_config_path / "settings.toml",
        project_file,
        data / "runs",
        data / "models",
        data / "sessions",
        places.user_state_path,
    )


def bundled_model() -> Path:
    """Return the directory of the model that comes with the package."""
    return Path(str(resources.files("gpt_model").joinpath("assets", BUNDLED)))
