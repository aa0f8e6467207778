"""`flowar plot`: the curves of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flowar.commands import say
from flowar.errors import MissingPackageError
from flowar.system.fields import checks_fields
from flowar.system.installation import install_command
from flowar.system.picture_paths import PictureFile

CURVES = "curves.png"


@dataclass
@checks_fields
class Options:
    """Draw the curves of a run, or of several in one picture: flowar plot RUN1 RUN2.

    Attributes:
        runs: folders of the runs, which hold metrics.jsonl; also without the option's name, as the first words.
        output: .png, .jpg or .webp to write; if left out, `curves.png` in the folder of the run, or for several in this
            one.
    """

    positional: ClassVar[str] = "runs"

    runs: list[Path]
    output: PictureFile | None = None


def run(options: Options) -> None:
    """Draw the curves, and print where the picture is."""
    try:
        from flowar.training.curves import training_curves
    except ImportError as error:
        raise MissingPackageError(f"matplotlib draws the curves: {install_command('train')}") from error
    from flowar.images.figures import rendered
    from flowar.images.files import write_picture
    from flowar.system.structured import read_rows
    from flowar.training.metrics import MetricsRow

    named = zip(names(options.runs), options.runs, strict=True)
    runs = {name: read_rows(run / "metrics.jsonl", MetricsRow) for name, run in named}
    figure = training_curves(runs)
    output = options.output or (options.runs[0] / CURVES if len(runs) == 1 else Path(CURVES))
    write_picture(output, rendered(figure))
    say(f"curves of {sum(map(len, runs.values()))} rows in {output}")


def names(runs: list[Path]) -> list[str]:
    """The names that tell runs apart: those of their folders, or the whole paths if two have the same.

    Raises:
        ValueError: for no run at all, and for one that is there twice.
    """
    if not runs or len({run.resolve() for run in runs}) < len(runs):
        raise ValueError(f"runs: expected one or more folders, each of them once, got {[str(run) for run in runs]}")
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]
