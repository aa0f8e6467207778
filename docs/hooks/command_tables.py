"""The options of every command, in place of the marker on the page `commands.md`: those that `--help` explains."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from docstring_parser import parse

from flowar.cli import COMMANDS

MARKER = "<!-- options of every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this with the text of every page."""
    return markdown.replace(MARKER, "\n".join(map(section, COMMANDS))) if MARKER in markdown else markdown


def section(command: str) -> str:
    """Heading, description and table of one command."""
    options = importlib.import_module(f"flowar.commands.{command.replace('-', '_')}").Options
    described = parse(options.__doc__ or "")
    text = "\n\n".join(filter(None, (described.short_description, described.long_description)))
    rows = [f"| `--{name}` | {default} | {meaning} |" for name, default, meaning in option_rows(options)]
    return "\n".join([f"## flowar {command}", "", text, "", "| option | default | |", "|---|---|---|", *rows, ""])


def option_rows(options: type[Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of every field, those of a dataclass within as `outer.inner`."""
    texts = [kind.__doc__ or "" for kind in reversed(options.__mro__) if is_dataclass(kind)]
    meanings = {each.arg_name: cell(each.description or "") for text in texts for each in parse(text).params}
    types = get_type_hints(options)
    for field in fields(options):
        inner = next((each for each in (types[field.name], *get_args(types[field.name])) if is_dataclass(each)), None)
        if inner is None:
            yield prefix + field.name, default_of(field), meanings[field.name]
        else:
            yield from option_rows(inner, f"{prefix}{field.name}.")  # type: ignore[arg-type]


def default_of(field: Field[Any]) -> str:
    """A field's default as it is typed on the command line; nothing where the model, the data or nobody has one."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return "required"
    if value is None or value in ((), ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value if isinstance(value, (str, Path)) else list(value) if isinstance(value, tuple) else value}`"


def cell(text: str) -> str:
    """Text that stays within one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
