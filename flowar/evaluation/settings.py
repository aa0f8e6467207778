"""Settings as nested plain data: flattening and comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MISSING = "nothing"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten `{"a": {"b": 1}}` to `{"a.b": 1}`, with values as JSON has them: tuples become lists."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value))
    return flat


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of every setting in which the two differ, by its dotted name."""
    one, other = flatten(first), flatten(second)
    pairs = {name: (one.get(name, MISSING), other.get(name, MISSING)) for name in [*one, *other]}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
