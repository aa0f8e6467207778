"""Which room of the package may import which: the order that CONTRIBUTING.md shows, read off the imports themselves."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from conftest import small_model
from torch import Tensor

from flowar import FlowAR
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowar"
FILES_AT_ROOT = {"__init__", "__main__", "cli", "config", "errors", "model"}

# What imports upward all the same: a picture of the nearest images compares features; pushing is a method, and lazy.
EXCEPTIONS = {
    ("flowar.show.neighbours", "flowar.evaluation.extractors"),
    ("flowar.pipeline.pipeline", "flowar.sharing"),
}

# What a reader of the published algorithm opens.
FILES_OF_THE_ALGORITHM = {
    *("model.py", "networks/ar_transformer.py", "networks/flow_transformer.py", "networks/latent_pyramid.py"),
    *("networks/attention.py", "networks/attention_backends.py", "networks/layers.py"),
    *("sampling/schedule.py", "sampling/solvers.py", "sampling/callbacks.py", "system/progress.py"),
    *("ops/backend.py", "ops/reference.py"),
}

# What a reader of the engine opens.
FILES_OF_THE_ENGINE = {
    *("engine/plan.py", "engine/packed.py", "engine/program.py", "engine/steering.py", "engine/rewrites.py"),
    *("networks/ar_transformer.py", "networks/flow_transformer.py", "networks/latent_pyramid.py"),
    *("networks/attention.py", "networks/attention_backends.py", "networks/layers.py"),
    *("sampling/schedule.py", "sampling/solvers.py", "sampling/callbacks.py"),
    *("system/autotune.py", "system/precision.py", "system/transfer.py"),
}


def order() -> list[set[str]]:
    """The rooms from low to high, those that stand side by side together."""
    (block,) = re.findall(r"^ +errors <.*(?:\n +<.*)*", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return [set(re.findall(r"\w+", group)) for group in block.split("<")]


def sources() -> dict[str, str]:
    """The text of every module, by its name; a package's is that of its `__init__.py`."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path.read_text() for path, name in names.items()}


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements, in functions too; but for those under `if TYPE_CHECKING`, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imports(ast.Module([other], []))
        else:
            yield from imports(node)


@functools.cache
def lazy_names() -> dict[tuple[str, str], str]:
    """The module behind every (package, name) that a package imports when it is first asked for."""
    found = {}
    for package, source in sources().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_names":
                for module, names in ast.literal_eval(node.args[1]).items():
                    found |= {(package, name): f"{package}.{module}" for name in names}
    return found


def imported(source: str, modules: Mapping[str, str]) -> set[str]:
    """The modules of this package that a text imports; for a name that a package imports lazily, the one behind it."""
    found = set()
    for node in imports(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"expected absolute imports, got {ast.unparse(node)}"
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            behind = {name: lazy_names().get((str(node.module), name), str(node.module)) for name in names}
            found |= {full if full in modules else behind[name] for name, full in names.items()}
    return {name for name in found if name in modules and name != "flowar"}


def upward(modules: Mapping[str, str]) -> set[tuple[str, str]]:
    """Every (module, imported module) of which the second is not in a room below the first one's, or in its own."""
    height = {room: i for i, group in enumerate(order()) for room in group}
    found = set()
    for name in modules.keys() - {"flowar", "flowar.__main__"}:
        room = name.split(".")[1]
        for other in imported(modules[name], modules):
            above = other.split(".")[1]
            if above != room and height[above] >= height[room]:
                found.add((name, other))
    return found


def circle(modules: Mapping[str, str]) -> list[str] | None:
    """Modules that import each other in a circle, or None."""
    graph = {name: imported(source, modules) for name, source in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def excepted(found: tuple[str, str]) -> bool:
    return any(found[0] == name and f"{found[1]}.".startswith(f"{other}.") for name, other in EXCEPTIONS)


class TestOrder:
    def test_no_room_imports_one_above_it(self) -> None:
        assert {found for found in upward(sources()) if not excepted(found)} == set()

    def test_every_exception_is_needed(self) -> None:
        assert {found[0] for found in upward(sources()) if excepted(found)} == {name for name, _ in EXCEPTIONS}

    def test_no_circle_between_files(self) -> None:
        assert circle(sources()) is None

    def test_every_room_has_its_place(self) -> None:
        rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
        files = {path.stem for path in PACKAGE.glob("*.py")}
        assert files == FILES_AT_ROOT
        assert set.union(*order()) == rooms | files - {"__init__", "__main__"}

    @pytest.mark.parametrize(
        ("name", "line", "expected"),
        [
            ("flowar.ops.geglu", "from flowar.model import FlowAR", "flowar.model"),
            ("flowar.sampling.noise", "def f():\n    import flowar.pipeline", "flowar.pipeline"),
            ("flowar.engine.plan", "class C:\n    def f(self):\n        from flowar import model", "flowar.model"),
            ("flowar.networks.layers", "from flowar import FlowARPipeline", "flowar.pipeline"),
            ("flowar.engine.plan", "from flowar.training import train", "flowar.training.trainer"),
            ("flowar.show.states", "from flowar.preview import film", "flowar.preview.film"),
            ("flowar.show.states", "from flowar.evaluation import extractors", "flowar.evaluation.extractors"),
            ("flowar.pipeline", "if TYPE_CHECKING:\n    pass\nelse:\n    import flowar.demo.page", "flowar.demo.page"),
        ],
    )
    def test_planted_violations_are_found(self, name: str, line: str, expected: str) -> None:
        planted = sources()
        planted[name] += f"\n{line}\n"
        assert {found for found in upward(planted) if not excepted(found)} == {(name, expected)}

    def test_a_planted_circle_is_found(self) -> None:
        planted = sources()
        planted["flowar.sampling.solvers"] += "\ndef f():\n    from flowar.sampling.schedule import Schedule\n"
        found = circle(planted)
        assert found is not None
        assert {*found} == {"flowar.sampling.solvers", "flowar.sampling.schedule"}

    def test_imports_for_types_are_free(self) -> None:
        planted = sources()
        planted["flowar.errors"] += "\nif TYPE_CHECKING:\n    from flowar.model import FlowAR\n"
        assert upward(planted) == upward(sources())
        assert circle(planted) is None


@pytest.fixture(params=["attn_mlp", "attn_cross_mlp"])
def model(request: pytest.FixtureRequest) -> FlowAR:
    return small_model(flow_block=request.param)


@contextmanager
def entered_files() -> Iterator[set[str]]:
    """The files of the package whose functions are called in this context."""
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            entered.add(path.relative_to(PACKAGE).as_posix())

    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(None)


def test_files_of_the_published_algorithm(model: FlowAR, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `sample(naive=True)` runs through once its arguments are checked; a file more is a decision."""
    algorithm = FlowAR._sample_published
    runs = list[set[str]]()

    def profiled(*arguments: Any) -> Tensor:
        with entered_files() as entered:
            runs.append(entered)
            return algorithm(*arguments)

    monkeypatch.setattr(FlowAR, "_sample_published", profiled)
    model.sample([0, 1], 3, guidance_scale=2.0, naive=True)
    assert runs == [FILES_OF_THE_ALGORITHM]


def test_files_of_the_engine(model: FlowAR) -> None:
    """What a call runs through once its arguments are checked and weights are packed; a file more is a decision.

    Ops are not counted: each is a formula in a file of its own.
    """
    plan, schedule = model._plan(model.precision("bfloat16")), model.schedule(3, 2.0)
    arguments = torch.tensor([0, 1]), schedule, image_seeds(0, 2), Callbacks()
    plan.sample(*arguments)
    with entered_files() as entered:
        plan.sample(*arguments)
    files = {file for file in entered if not file.startswith("ops/")}
    assert files - {"engine/onednn_linear.py"} == FILES_OF_THE_ENGINE  # which not every processor has
    assert len(files) <= 18
