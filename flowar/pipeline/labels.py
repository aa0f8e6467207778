"""The classes that a pipeline is called with: by label, by name, or none."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowar.data.class_names import class_names_of, name_of, resolve
from flowar.model import FlowAR

ClassLabels = Tensor | Sequence[int | str | None] | int | str | None
Labels = Tensor | list[int | None]


def labels_of(classes: ClassLabels, model: FlowAR) -> Labels:
    """The labels of classes; None stays None. Those of a list are the model's to check.

    Raises:
        ValueError: for a name of no class or of several, and what are no labels.
    """
    given = [classes] if classes is None or isinstance(classes, str) else classes
    if not isinstance(given, (list, tuple)):
        return model.check_labels(given)  # type: ignore[arg-type]  # which refuses what is none
    names = class_names_of(model.config)
    return [resolve([each], names)[0] if isinstance(each, str) else each for each in given]


def repeat_each(labels: Labels, times: int) -> Labels:
    """Labels of which each is repeated so many times, side by side."""
    if isinstance(labels, Tensor):
        return labels.repeat_interleave(times)
    return [each for each in labels for _ in range(times)]


def names_of(labels: Labels, model: FlowAR) -> list[str]:
    """What each of some labels is called; "no class" for None."""
    names = class_names_of(model.config)
    plain = labels.tolist() if isinstance(labels, Tensor) else labels
    return ["no class" if each is None else name_of(int(each), names) for each in plain]
