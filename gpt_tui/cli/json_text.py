"""JSON for other programs: what is no finite number becomes null, because JSON has no NaN."""

import json
import math
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """Return plain values (and paths) as JSON."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
