"""cache_directory: where is kept what can be made again at any time: machine code, packed weights, measured rates."""

import os
from pathlib import Path

import platformdirs


def cache_directory() -> Path:
    """Return `cache` under `GPT_TUI_HOME` if that is set, else the platform's place; nothing is made."""
    if home := os.environ.get("GPT_TUI_HOME"):
        return Path(home).expanduser().absolute() / "cache"
    return platformdirs.user_cache_path("gpt-tui")
