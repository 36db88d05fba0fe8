"""processor: which CPU this is. Knows no torch."""

import platform
from pathlib import Path


def processor() -> str:
    """Return which CPU this is, as in "AuthenticAMD 26-2": libraries add in another order on another one."""
    about: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            about.setdefault(name.strip(), value.strip())
    except OSError:  # not Linux
        pass
    if "vendor_id" in about:
        return f"{about['vendor_id']} {about.get('cpu family', '?')}-{about.get('model', '?')}"
    return platform.processor() or platform.machine()
