"""The CPU's own forward pass: packed weights and compiled loops. Compiled once for a machine, kept in its cache.

Numba keeps machine code beside each source file and looks at that file alone when it asks whether the code is stale;
here a function is made from several files, so the cache's name tells all of them.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numba
import platformdirs

_KEPT = 4


def _cache_directory() -> Path:
    """Return where machine code is kept, and forget what older versions left."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    name = hashlib.sha256(sources + numba.__version__.encode()).hexdigest()[:16]
    directory = platformdirs.user_cache_path("gpt-tui") / "compiled" / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory.touch()
        older = sorted(directory.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-_KEPT]
        for each in older:
            shutil.rmtree(each, ignore_errors=True)
        if os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="gpt-tui-compiled-"))


if "NUMBA_CACHE_DIR" not in os.environ:
    numba.config.CACHE_DIR = str(_cache_directory())
