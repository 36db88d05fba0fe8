"""What this CPU can do, as LLVM sees it. Knows no numba."""

import hashlib

import llvmlite.binding

_FEATURES = llvmlite.binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8
"""float32 numbers in a vector: two tiles' worth of them fit into the registers."""

HAS_FLOAT16 = bool(_FEATURES.get("f16c") or _FEATURES.get("fullfp16") or _FEATURES.get("neon"))
"""Whether it converts float16 by itself."""


IS_X86 = llvmlite.binding.get_default_triple().startswith("x86_64")


def cpu_key() -> str:
    """Return what machine code depends on: homes are shared by different machines."""
    about = f"{llvmlite.__version__} {llvmlite.binding.get_host_cpu_name()} {_FEATURES.flatten()}"
    return hashlib.sha256(about.encode()).hexdigest()[:12]
