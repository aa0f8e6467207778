"""Wrong JSON and YAML: text that is none, and values that have no place where they are."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any

import yaml

from campaign.case import Case, Fault, Ground
from campaign.verdict import Expected, shown

DEEP = 100_000
REFUSED, EITHER = Expected.REFUSED, Expected.EITHER
Place = tuple[Any, ...]

# Numbers that are none, or that nothing can have that many of; names that would write over a terminal.
NO_NUMBERS = (float("nan"), float("inf"), 1e300, 2**64, 10**400, -1)
NAMES = ("a\nb", "\x1b[2J\x1b[31m", "\x00", "\u202e", "| <img src=//x> |", "n" * 5000, "..", "\ud800")
WRONG: tuple[tuple[type, tuple[Any, ...]], ...] = (
    (bool, ("yes", 2, [], {}, "\x1b[31m")),
    (int, ("x", [], {}, True, 0.5, *NO_NUMBERS)),
    (float, ("x", [], {}, True, *NO_NUMBERS[:2], 10**400)),
    (str, (5, [], {}, True, 1e300)),
    (list, ("x", 5, {}, [{}], [float("nan")], [[[]]])),
    (dict, ("x", 5, [], [{}], True)),
)
# Places, as document:path, whose values nobody reads, or that may hold anything.
FREE = (
    "card.json:settings.*",
    "card.json:warnings*",
    "card.json:unavailable*",
    "config.json:class_names.*",
    "store.json:images",
    "store.json:source",
    "store.json:skipped*",
)


NEEDED = ("train.yaml:model", "train.yaml:model.*")  # without which a model of ordinary size is made, which takes long


def wrong_document(ground: Ground) -> Case:
    """A file of JSON or YAML with one thing wrong."""
    command, path = ground.reader("*.json", "*.yaml", "*.jsonl")
    text, rng = path.read_text(), ground.random
    break_it = rng.choice((wrong_text, wrong_value, wrong_value))
    free = (*FREE, *command.unread.split())
    return ground.spoil(command, path, break_it(rng, path.name, text, free))


def wrong_text(rng: random.Random, name: str, text: str, free: Sequence[str] = ()) -> Fault:
    """Text that is no document, or not one of an object."""
    whole, rows = text.encode(), name.endswith(".jsonl")
    if rows:
        first, _, rest = text.partition("\n")
        head, tail = b"", f"\n{rest}".encode()
        whole = first.encode()
    else:
        head, tail = b"", b""
    middle = rng.randrange(1, len(whole) - 1)
    doubled = (
        re.sub(r'"(\w+)":', r'"\1": null, "\1":', text, count=1) if name.endswith(("json", "jsonl")) else text + text
    )
    faults: list[Fault] = [
        ("cut off", whole[:middle], EITHER if name.endswith("yaml") else REFUSED),
        ("empty", b"", EITHER if rows else REFUSED),  # lines between rows are nothing
        ("blank", b" \n" * 50, REFUSED),
        ("zeros", bytes(len(whole)), REFUSED),
        ("random bytes", rng.randbytes(200), REFUSED),
        ("no UTF-8", whole[:middle] + b"\xff\xfe\xff" + whole[middle:], REFUSED),
        ("UTF-16", text.encode("utf-16"), REFUSED),
        ("a byte order mark", b"\xef\xbb\xbf" + whole, EITHER),
        ("a list", b"[1, 2]", REFUSED),
        ("a number", b"5", REFUSED),
        ("a string", b'"text"', REFUSED),
        ("null", b"null", REFUSED),
        ("an empty object", b"{}", EITHER if name in ("config.json", "metrics.jsonl") else REFUSED),
        ("more behind it", whole + b"}{", REFUSED),
        ("a deep list", b"[" * DEEP + b"]" * DEEP, REFUSED),
        ("deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP, REFUSED),
        ("a key doubled", doubled.encode(), REFUSED),
        (
            "a number of 5000 digits",
            re.sub(rb"\b\d+\b", b"9" * 5000, whole, count=1),
            REFUSED if re.search(rb"\b\d+\b", whole) else EITHER,
        ),
        ("a bit flipped", flipped(rng, whole), EITHER),
        *(YAML_FAULTS if name.endswith("yaml") else ()),
    ]
    fault, changed, expected = rng.choice(faults)
    return fault, head + changed + tail, expected


def flipped(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_FAULTS: list[Fault] = [
    ("a billion laughs", LAUGHS.encode(), REFUSED),
    ("a call", b"output: !!python/object/apply:os.system ['touch RAN']\n", REFUSED),
    ("an unknown tag", b"output: !bogus x\n", REFUSED),
    ("tabs", b"data:\n\tfolder: idx\n", REFUSED),
    ("a quote open", b'output: "new\n', REFUSED),
    ("two documents", b"output: new\n---\noutput: other\n", REFUSED),
    ("an alias of nothing", b"output: *nothing\n", REFUSED),
    ("itself in itself", b"data: &x {folder: *x}\n", REFUSED),
    ("a list as a key", b"[1, 2]: 3\n", REFUSED),
]


def wrong_value(rng: random.Random, name: str, text: str, free: Sequence[str]) -> Fault:
    """A document one of whose values is wrong, gone, or new."""
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines()]
        row = rng.randrange(len(rows))
        fault, rows[row], expected = changed_tree(rng, name, rows[row], free)
        return f"row {row}: {fault}", "".join(json.dumps(each) + "\n" for each in rows).encode(), expected
    if name.endswith(".yaml"):
        fault, tree, expected = changed_tree(rng, name, yaml.safe_load(text), free)
        return fault, yaml.dump(tree).encode(), expected
    fault, tree, expected = changed_tree(rng, name, json.loads(text), free)
    return fault, json.dumps(tree).encode(), expected


def changed_tree(rng: random.Random, name: str, tree: Any, free: Sequence[str] = FREE) -> tuple[str, Any, Expected]:
    """A tree with one place changed, which may hold anything where `free` has a pattern of document:place."""
    tree = copy.deepcopy(tree)
    place = rng.choice(list(places(tree)))
    *above, last = place
    parent = tree
    for key in above:
        parent = parent[key]
    path = ".".join(map(str, place))
    found = parent[last]
    kind = rng.randrange(10)
    if kind == 0 and not any(fnmatch(f"{name}:{path}", pattern) for pattern in NEEDED):
        del parent[last]
        return f"without {path}", tree, EITHER
    if kind == 1 and isinstance(parent, dict):
        new = rng.choice(NAMES)
        parent[new] = rng.choice((1, None, "x"))
        return f"{shown(new, 20)!r} beside {path}", tree, EITHER
    if kind == 2 and isinstance(found, str):
        parent[last] = rng.choice(NAMES)
        return f"{path} {shown(parent[last], 20)!r}", tree, EITHER
    if kind == 3 or found is None:
        parent[last] = rng.choice((None, [], "", {}, 0))
        return f"{path} {parent[last]!r}", tree, EITHER
    values = next((values for type_, values in WRONG if isinstance(found, type_)), (None,))
    parent[last] = rng.choice([value for value in values if value != found])
    not_measured = name.endswith(("jsonl", "card.json")) and parent[last] in (NO_NUMBERS[0], [NO_NUMBERS[0]])  # NaN
    return (
        f"{path} {shown(repr(parent[last]), 40)}",
        tree,
        EITHER if not_measured or any(fnmatch(f"{name}:{path}", pattern) for pattern in free) else REFUSED,
    )


def places(tree: Any, above: Place = ()) -> Iterator[Place]:
    """The ways to all that a tree holds, but for what is deep in long lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))
