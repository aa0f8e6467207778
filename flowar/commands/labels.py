"""The option `classes` of several commands."""

from __future__ import annotations

from collections.abc import Sequence

from flowar.data.class_names import resolve

DEFAULT_CLASSES = 10
# Of a list[int | str] the parser would make the number 2 of the word 02, which may be a class's name.
Classes = list | str  # type: ignore[type-arg]


def parse_labels(
    classes: Sequence[int | str] | str | None, num_classes: int, class_names: Sequence[str] = ()
) -> list[int]:
    """The labels of a list, or of words like "0,3,7" or "otter, 3"; those of the first ten classes for None.

    Raises:
        FlowARError: for words that are neither integers nor each the name of one class.
    """
    if classes is None:
        return list(range(min(DEFAULT_CLASSES, num_classes)))
    return resolve(classes.split(",") if isinstance(classes, str) else classes, class_names)
