"""A look at YAML before anything is built from it: every key once, little nesting, and aliases that do not explode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowar.errors import DataError, shown
from flowar.system.structured import MOST_NESTING, read_text, too_deep

MOST_BYTES = 2**22  # of a file
MOST_NODES = 10**6  # values, each of them as often as aliases repeat it


@dataclass
class Open:
    """A list or a mapping that has not ended.

    Attributes:
        mapping: whether it is a mapping.
        anchor: the name that aliases may call it by.
        nodes: the values in it so far, itself among them.
        keys: the keys of a mapping.
        value_next: whether the next value belongs to the last key.
    """

    mapping: bool
    anchor: str | None
    nodes: int = 1
    keys: set[str] = field(default_factory=set)
    value_next: bool = False

    def take(self, key: Any) -> None:
        """Take the next value of a mapping: a key or what it stands for. Raises ValueError for a key that is none."""
        if self.mapping and not self.value_next:
            if not isinstance(key, str):
                raise ValueError("a key that is no name")
            if key in self.keys:
                raise ValueError(f"{shown(key)} twice")
            self.keys.add(key)
        self.value_next = not self.value_next


def check_yaml_file(path: Path) -> None:
    """Check a YAML file.

    Raises:
        DataError: for a file that is missing, unreadable, or holds something else.
    """
    text = read_text(path, "options in YAML", DataError, MOST_BYTES)
    try:
        check_yaml(text)
    except ValueError as error:
        raise DataError(f"{path}: expected options in YAML, got {error}") from error


def check_yaml(text: str) -> None:
    """Check a YAML text. Raises ValueError with what came instead."""
    import yaml

    try:
        check_events(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as error:
        raise ValueError(f"something else: {' '.join(str(error).split())}") from error


def check_events(events: Iterable[Any]) -> None:
    """Check the events of a parser. Raises ValueError with what came."""
    import yaml

    around: list[Open] = []
    sizes: dict[str, int] = {}  # of what has an anchor
    for event in events:
        if isinstance(event, yaml.NodeEvent) and around:
            around[-1].take(getattr(event, "value", None))
        if isinstance(event, yaml.CollectionStartEvent):
            if len(around) == MOST_NESTING:
                too_deep()
            around.append(Open(isinstance(event, yaml.MappingStartEvent), event.anchor))
            continue
        anchor, nodes = None, 1
        if isinstance(event, yaml.CollectionEndEvent):
            ended = around.pop()
            anchor, nodes = ended.anchor, ended.nodes
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"*{event.anchor} before the end of what it stands for")
            nodes = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            anchor = event.anchor
        if anchor is not None:
            sizes[anchor] = nodes
        if around:
            around[-1].nodes += nodes
            if around[-1].nodes > MOST_NODES:
                raise ValueError(f"more than {MOST_NODES} values, as aliases repeat them")
