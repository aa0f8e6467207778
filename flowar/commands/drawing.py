"""What `flowar sample` does: pictures of classes, drawn in batches by one process or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowar.commands import say
from flowar.commands.labels import parse_labels
from flowar.commands.pictures import Pictures, Subject, facts, fresh_seed, seed_of
from flowar.data.class_names import class_names_of
from flowar.images.npz import Batch
from flowar.pipeline import FlowARPipeline
from flowar.system.memory import check_memory
from flowar.system.precision import resolve_precision
from flowar.system.progress import step_progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.commands.sample import Options
    from flowar.preview.watch import Watch
    from flowar.system.ranks import Ranks

OUTPUT = "samples.png"
PER_CLASS = 8
KNOWN_BYTES = 500  # of a picture that is to be drawn


class Drawing:
    """The pictures that options ask for: number i has the i-th class in turn, and `seed` plus i as its seed."""

    def __init__(self, options: Options, ranks: Ranks) -> None:
        self.options, self.ranks = options, ranks
        self.pipeline = open_pipeline(options, ranks.device)
        model = self.pipeline.model
        self.names = class_names_of(model.config)
        all_classes = [*range(model.config.num_classes)] if options.num_images else None
        wanted = all_classes if options.classes is None else options.classes
        self.classes = parse_labels(wanted, model.config.num_classes, self.names)
        model.check_labels(self.classes)
        self.schedule = model.schedule(
            options.num_inference_steps, options.guidance_scale, options.guidance_interval, options.schedule
        )
        self.asked = "num_images" if options.num_images else "per_class"
        self.count = options.num_images or len(self.classes) * (options.per_class or PER_CLASS)
        check_memory(self.asked, f"what is known of {self.count} pictures", KNOWN_BYTES * self.count)
        self.seed: int = ranks.from_main(fresh_seed) if options.seed is None else options.seed

    def write_npz(self, path: Path) -> None:
        """Draw all pictures into an npz, on every rank its share, and say so."""
        labels = [self._label(number) for number in range(self.count)]
        batch = Batch(labels, self.pipeline.picture_size, self._draw_quietly, self._at_once())
        batch.write(path, self.ranks)
        if self.ranks.main:
            say(f"{self.count} images in {path}, seed {self.seed}")

    def write_pictures(self, watch: Watch) -> None:
        """Draw all pictures, write them, with a film if one is wanted, and say where they are."""
        pictures = self._pictures()
        if pictures.single and not watch.wanted:
            self._write_each(pictures)
        else:
            with self.ranks.main_first():
                if self.ranks.main:
                    self._write_together(pictures, watch)
        if self.ranks.main:
            film = f"film in {self.options.animate}" if self.options.animate else ""
            pictures.report(f"seed {self.seed}", film)

    def _write_together(self, pictures: Pictures, watch: Watch) -> None:
        """Draw all pictures at once while somebody may watch, and write them."""
        self.pipeline.check_count(self.asked, self.count)
        with watch:
            drawn = self._draw(
                0,
                self.count,
                preview=watch.preview(pictures.columns, pictures.factor),
                preview_steps=self.options.preview_steps,
                progress=False if watch.terminal else None,
            )
        pictures.write(drawn, watch.write_film)

    def _write_each(self, pictures: Pictures) -> None:
        """Draw the pictures in batches, on every rank its own, each picture into its file."""
        at_once = self._at_once()
        starts = range(0, self.count, at_once)[self.ranks.rank :: self.ranks.world_size]
        with step_progress(len(starts), None, "drawing") as advance:
            for start in starts:
                for number, image in enumerate(self._draw_quietly(start, min(start + at_once, self.count)), start):
                    pictures.write_one(number, image)
                advance()
        self.ranks.wait_for_all()

    def _pictures(self) -> Pictures:
        """Where the pictures go."""
        options = self.options
        labels = map(self._label, range(self.count))
        seeds = (seed_of(self.seed, number) for number in range(self.count))
        return Pictures(
            options.output or OUTPUT,
            [Subject.of(self.names, label, seed) for label, seed in zip(labels, seeds, strict=True)],
            min(len(self.classes), self.count),
            self.pipeline.picture_size,
            facts(options.model, self.pipeline, self.schedule, options.dtype),
            options.zoom,
            options.labels,
        )

    def _at_once(self) -> int:
        """The number of pictures in a batch."""
        at_once = min(self.options.batch_size, self.count)
        self.pipeline.check_count("batch_size", at_once)
        return at_once

    def _label(self, number: int) -> int:
        return self.classes[number % len(self.classes)]

    def _draw_quietly(self, begin: int, end: int) -> list[Image]:
        return self._draw(begin, end, progress=False)

    def _draw(self, begin: int, end: int, **shown: Any) -> list[Image]:
        """The pictures from the number `begin` to `end`."""
        numbers = range(begin, end)
        return self.pipeline(
            [self._label(number) for number in numbers],
            schedule=self.schedule,
            seed=[seed_of(self.seed, number) for number in numbers],
            dtype=self.options.dtype,
            naive=self.options.naive,
            **shown,
        ).images


def open_pipeline(options: Options, device: torch.device) -> FlowARPipeline:
    """The pipeline of the options, its weights in memory once, in the dtype that it draws in."""
    wanted = resolve_precision(options.dtype, device, torch.float32).name
    # Bfloat16 on a CPU packs weights of its own; loaded as float32 they would be in memory twice.
    dtype = torch.bfloat16 if (wanted, device.type, options.naive) == ("bfloat16", "cpu", False) else torch.float32
    pipeline = FlowARPipeline.from_pretrained(options.model, dtype=dtype).to(device)
    return pipeline if options.naive else pipeline.prepack(options.dtype)
