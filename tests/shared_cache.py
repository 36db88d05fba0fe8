"""A test's own home shares the machine's cache: to compile anew in every one of them would take minutes."""

from pathlib import Path

import platformdirs


def share_cache(home: Path) -> None:
    """Put the cache that all tests have in the place of a home's own."""
    cache = platformdirs.user_cache_path("gpt-tui")
    cache.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "cache").exists():
        (home / "cache").symlink_to(cache)
