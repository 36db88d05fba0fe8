"""What this CPU can do, as LLVM sees it. Knows no numba."""

import ctypes
import functools
import hashlib
import sys

import llvmlite.binding

_FEATURES = llvmlite.binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8
"""float32 numbers in a vector: two tiles' worth of them fit into the registers."""
TILE_ROWS = 8 if LANES == 16 else 4
"""Rows of a product whose sums, of two vectors each, stay in registers beside what they are made of."""

MULTIPLY_PAIRS = ""
"""LLVM's name of the instruction that multiplies pairs of int16 and adds both products, where there is one."""
MULTIPLY_PAIRS_AND_ADD = ""
"""The same, added to a sum."""
if LANES == 16 and _FEATURES.get("avx512bw"):
    MULTIPLY_PAIRS = "llvm.x86.avx512.pmaddw.d.512"
    MULTIPLY_PAIRS_AND_ADD = "llvm.x86.avx512.vpdpwssd.512" if _FEATURES.get("avx512vnni") else ""
elif LANES == 8 and _FEATURES.get("avx2"):
    MULTIPLY_PAIRS = "llvm.x86.avx2.pmadd.wd"
    MULTIPLY_PAIRS_AND_ADD = "llvm.x86.avx512.vpdpwssd.256" if _FEATURES.get("avxvnni") else ""

HAS_FLOAT16 = bool(_FEATURES.get("f16c") or _FEATURES.get("fullfp16") or _FEATURES.get("neon"))
"""Whether it converts float16 by itself."""

IS_ZEN = llvmlite.binding.get_host_cpu_name().startswith("znver")
"""Whether it is AMD's: it follows several rows by itself, and what it is asked for may come into the nearest cache."""

IS_X86 = llvmlite.binding.get_default_triple().startswith("x86_64")

HAS_MATRIX_UNIT = bool(
    IS_X86 and LANES == 16 and _FEATURES.get("amx-tile") and _FEATURES.get("amx-int8") and sys.platform == "linux"
)
"""Whether it has Intel's AMX for bytes."""
_PRCTL, _ASK, _TILE_DATA = 158, 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


@functools.cache
def may_use_matrix_unit() -> bool:
    """Ask the system for the matrix unit, once a process: its registers are large, so a thread has them on request."""
    return HAS_MATRIX_UNIT and ctypes.CDLL(None).syscall(_PRCTL, _ASK, _TILE_DATA) == 0


def cpu_key() -> str:
    """Return what machine code depends on: homes are shared by different machines."""
    about = f"{llvmlite.__version__} {llvmlite.binding.get_host_cpu_name()} {_FEATURES.flatten()}"
    return hashlib.sha256(about.encode()).hexdigest()[:12]
