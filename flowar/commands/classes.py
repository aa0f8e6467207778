"""`flowar classes`: what the classes of a model are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowar.commands import say
from flowar.system.fields import checks_fields
from flowar.system.rules import Place


@dataclass
@checks_fields
class Options:
    """List the classes of a model by number and name; `flowar classes WORD` lists those with a word in their names.

    Attributes:
        model: shipped name, folder, or Hub id; or a data set: imagenet, fashion_mnist.
        search: words that the names of the listed classes contain; also as the first words, without the option's name.
    """

    positional: ClassVar[str] = "search"

    model: Place = "flowar-fashion"
    search: str = ""


def run(options: Options) -> None:
    """Print one class per line.

    Raises:
        FlowARError: if the model's classes have no names, or none holds the word.
    """
    from flowar.data.class_names import closest, search
    from flowar.errors import FlowARError

    names = names_of(options.model)
    if not names:
        raise FlowARError(f"{options.model}: expected a model whose classes have names, got one without")
    found = search(options.search, names)
    if not found:
        proposals = ", ".join(closest(options.search, names)) or "none"
        raise FlowARError(f"search: expected a part of a name, got {options.search!r}; closest names: {proposals}")
    width = len(str(len(names) - 1))
    say(*(f"{label:>{width}}  {names[label]}" for label in found))


def names_of(model: str) -> tuple[str, ...]:
    """The class names of a model or a data set."""
    from flowar.data.class_names import DATASETS, class_names_of, read_class_names
    from flowar.storage.checkpoint import read_config
    from flowar.storage.hub import locate

    return read_class_names(model) if model in DATASETS else class_names_of(read_config(locate(model)))
