"""How `flowar sample` and `flowar edit` hand their pictures over, as `--output`, `--zoom` and `--labels` say."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flowar.commands import say
from flowar.errors import FlowARError, escaped
from flowar.images.files import check_side, save_picture, write_picture
from flowar.images.grid import image_grid
from flowar.images.shown import enlarged, strip_height, with_names, zoom_to_see
from flowar.system.files import write_aside
from flowar.system.memory import check_memory
from flowar.system.picture_paths import FORMATS, STDOUT, filled, is_pattern

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.pipeline import FlowARPipeline
    from flowar.sampling.schedule import Schedule

SEEDS = 2**32  # as many fresh ones there are: short enough to be typed
ALL_SEEDS = 2**64  # beyond which seeds begin anew


@dataclass(frozen=True)
class Subject:
    """What a picture shows.

    Attributes:
        name: the name of its class, or the number where classes have no names.
        label: the number of its class.
        seed: the seed of its noise.
    """

    name: str
    label: str
    seed: str

    @staticmethod
    def of(names: Sequence[str], label: int, seed: int) -> Subject:
        """A picture of one class of those with these names, if they have names."""
        return Subject(names[label] if names else str(label), str(label), str(seed))

    def until(self, other: Subject) -> Subject:
        """A picture between this one and another."""
        return Subject(f"{self.name} to {other.name}", f"{self.label} to {other.label}", f"{self.seed} to {other.seed}")


def fresh_seed() -> int:
    """A seed that nobody has chosen."""
    return secrets.randbelow(SEEDS)


def seed_of(first: int, index: int) -> int:
    """The seed of a picture by its number, where the first one has the seed `first`."""
    return first + index if first + index < ALL_SEEDS else first + index - ALL_SEEDS


def facts(model: str, pipeline: FlowARPipeline, schedule: Schedule, dtype: str | None = None) -> dict[str, str]:
    """What the records of all pictures of a pipeline say."""
    import json

    from flowar import __version__

    return {
        "model": escaped(model),
        "schedule": json.dumps(schedule.to_dict()),
        "dtype": pipeline.model.precision(dtype).name,
        "software": f"FlowAR {__version__}",
    }


@dataclass(frozen=True)
class Pictures:
    """Where pictures of one size go, and how they look there.

    Attributes:
        output: a file, a pattern of files, or - for stdout, as `PictureOutput` has it.
        subjects: what the pictures show, in their order.
        columns: the columns of a grid of them all.
        size: width and height of a picture.
        facts: what the record of every picture says beside its subject.
        zoom: the factor by which to enlarge them; None enlarges those of a grid if they are small.
        named: whether the names of classes stand above them.

    Raises:
        FlowARError: for an output that cannot take them, before anything is drawn.
    """

    output: str
    subjects: Sequence[Subject]
    columns: int
    size: tuple[int, int]
    facts: Mapping[str, str]
    zoom: int | None = None
    named: bool = False

    def __post_init__(self) -> None:
        if self.output == STDOUT and (sys.stdout is None or sys.stdout.isatty()):
            found = "no stdout" if sys.stdout is None else "the terminal"
            raise FlowARError(f"output: expected a file, or a pipe that reads -, got {found}")
        columns, rows = (1, 1) if self.single else (self.columns, -(-len(self.subjects) // self.columns))
        width, height = (side * self.factor for side in self.size)
        whole = columns * width, rows * height + strip_height(width) * self.named
        check_memory("output", f"a picture of {whole[0]}x{whole[1]}", 2 * whole[0] * whole[1])
        check_side("output", whole, self.form)
        if self.single:
            self._check_names()

    @property
    def single(self) -> bool:
        """Whether every picture has a file of its own."""
        return is_pattern(self.output)

    @property
    def factor(self) -> int:
        """How many times larger than drawn the pictures are."""
        alone = self.single or len(self.subjects) == 1
        return self.zoom or (1 if alone else zoom_to_see(self.size))

    @property
    def form(self) -> str:
        """The format of the files."""
        return "PNG" if self.output == STDOUT else FORMATS[Path(self.output).suffix.lower()]

    @property
    def place(self) -> str:
        """The place of the pictures, in words."""
        return "stdout" if self.output == STDOUT else self.output

    def write_one(self, index: int, image: Image) -> None:
        """Write one picture into its file."""
        subject = self.subjects[index]
        image = enlarged(image, self.factor)
        if self.named:
            image = with_names(image, [subject.name])
        write_picture(self._path(index), image, self._record([subject]))

    def write(self, images: Sequence[Image], also: Callable[[], object] = lambda: None) -> None:
        """Write all pictures, and have `also` write what belongs to them: neither is there if the other fails.

        That is, of pictures in one file.
        """
        if not self.single:
            self._write_together(images, also)
            return
        for index, image in enumerate(images):
            self.write_one(index, image)
        also()

    def _write_together(self, images: Sequence[Image], also: Callable[[], object]) -> None:
        """Write all pictures as a grid, or the only one, into the file or to stdout."""
        grid = enlarged(image_grid(images, self.columns), self.factor)
        if self.named:
            grid = with_names(grid, [subject.name for subject in self.subjects[: self.columns]])
        record = self._record(self.subjects)

        def write(file: Path | IO[bytes]) -> None:
            save_picture(file, grid, self.form, record)
            also()

        if self.output != STDOUT:
            write_aside(Path(self.output), write)
            return
        sys.stdout.flush()
        write(sys.stdout.buffer)

    def report(self, *more: str) -> None:
        """Say where the pictures are, and more: on stderr where stdout has the pictures."""
        count = len(self.subjects)
        line = ", ".join([f"{count} image{'s' * (count > 1)} in {self.place}", *filter(None, more)])
        say(line, to=sys.stderr if self.output == STDOUT else sys.stdout)

    def _path(self, index: int) -> Path:
        subject, digits = self.subjects[index], len(str(len(self.subjects) - 1))
        values = {"index": f"{index:0{digits}}", "class": subject.name, "label": subject.label, "seed": subject.seed}
        return filled(self.output, values)

    def _check_names(self) -> None:
        """Check that no two pictures have the same file."""
        known: set[Path] = set()
        for path in map(self._path, range(len(self.subjects))):
            if path in known:
                raise FlowARError(
                    f"output: expected names that tell pictures apart, as {{index}} does, got {path} twice"
                )
            known.add(path)

    def _record(self, subjects: Sequence[Subject]) -> dict[str, str]:
        """What is to be known of pictures in one file."""
        names = dict.fromkeys(subject.name for subject in subjects)
        labels = dict.fromkeys(subject.label for subject in subjects)
        seeds = dict.fromkeys((subjects[0].seed, subjects[-1].seed))
        return {
            "class": escaped("; ".join(names)),
            "label": "; ".join(labels),
            "seed": " to ".join(seeds),
            **self.facts,
        }
