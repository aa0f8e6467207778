"""How much faster a distilled model draws than its teacher: whole draws, pictures included, in turns.

    python benchmarks/student_speed.py --teacher flowar-fashion --student runs/student/model

The teacher draws on its published schedule and on its preset, with guidance; the student with 1, 2 and 4 evaluations a
scale as far as it has learned them. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from record import device_of, save_results, settings_of
from tables import table
from timing import summary, time_alternating

from flowar import FlowARPipeline
from flowar.sampling.presets import JUMP_SCHEDULES, schedule_names

HEADER = ("batch", "draws", "p50 ms", "p20", "p80", "x preset", "x published")
PUBLISHED = "published-s"


def main() -> None:
    options = parse_arguments()
    device = device_of(options)
    settings = settings_of(options)
    teacher, student = (
        FlowARPipeline.from_pretrained(name).to(device).prepack() for name in (options.teacher, options.student)
    )
    results: list[dict[str, Any]] = []
    for batch in options.batch_sizes:
        times = time_alternating(draws(teacher, student, batch), device, options.seconds, warmup=options.seconds / 4)
        results += [{"batch": batch, "draws": name, **summary(seconds)} for name, seconds in times.items()]
    print(table(HEADER, [row for batch in options.batch_sizes for row in rows(results, batch)]))
    print(save_results("student_speed", device, options.output, {"settings": settings, "results": results}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of a distilled model against its teacher's.")
    parser.add_argument("--teacher", default="flowar-fashion", help="a folder or shipped name")
    parser.add_argument("--student", required=True, help="a folder that flowar distill wrote, or a shipped name")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 80])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own number if left out")
    parser.add_argument("--seconds", type=float, default=10, help="to measure each variant for")
    parser.add_argument("--output", type=Path, help="JSON file; by default in benchmarks/results")
    return parser.parse_args()


def draws(teacher: FlowARPipeline, student: FlowARPipeline, batch: int) -> dict[str, Callable[[], object]]:
    """A draw of `batch` pictures of all classes in turn, by the words of the table."""
    labels = [number % teacher.model.config.num_classes for number in range(batch)]
    draw = partial(teacher, labels, seed=0, progress=False)
    preset = teacher.model.config.schedule
    learned = [name for name in schedule_names(student.model.config.jumps) if name in JUMP_SCHEDULES]
    few = {f"student: {name}": partial(student, labels, schedule=name, seed=0, progress=False) for name in learned}
    return {"teacher: published": partial(draw, schedule=PUBLISHED), f"teacher: {preset}": draw} | few


def rows(results: list[dict[str, Any]], batch: int) -> list[tuple[object, ...]]:
    """The lines of one batch size; the first two results of it are the teacher's."""
    own = [result for result in results if result["batch"] == batch]
    published, preset = (result["median"] for result in own[:2])
    return [
        (
            batch,
            result["draws"],
            *(f"{1e3 * result[name]:.1f}" for name in ("median", "p20", "p80")),
            f"{preset / result['median']:.2f}",
            f"{published / result['median']:.2f}",
        )
        for result in own
    ]


if __name__ == "__main__":
    main()
