"""What users may rely on: names, signatures, and a library that neither prints nor changes what warns."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterable

import pytest
from public_api import RECORD, ROOT, public_modules, signatures

from flowar import FlowAR, FlowARPipeline
from flowar.pipeline import PictureOptions
from flowar.sampling import SamplingOptions

SOURCES = sorted((ROOT / "flowar").rglob("*.py"))
COMMAND_LINE = ("cli.py", "commands")  # what prints


def test_signatures_are_those_recorded() -> None:
    changed = "the public API has changed: `python tests/public_api.py` records it, CHANGELOG.md says how"
    assert signatures() == RECORD.read_text(), changed


@pytest.mark.parametrize("module", public_modules())
def test_names_are_there(module: str) -> None:
    names = public_modules()[module]
    assert len(names) == len(set(names))
    for name in names:
        assert name in dir(importlib.import_module(module))
        getattr(importlib.import_module(module), name)


def test_documentation_lists_the_public_modules() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    listed = dict(re.findall(r"^\| `(flowar[\w.]*)` \| (.*) \|$", page, re.MULTILINE))
    names = {module: {*re.findall(r"`(\w+)`", row)} for module, row in listed.items()}
    assert names == {module: {*names} for module, names in public_modules().items()}


def test_unknown_names_are_errors() -> None:
    for module in public_modules():
        assert not hasattr(importlib.import_module(module), "no_such_name")


def test_importing_the_public_packages_is_light() -> None:
    """Without torch: `flowar doctor` starts where it does not load."""
    packages = [module for module in public_modules() if (ROOT / module.replace(".", "/")).is_dir()]
    light = ", ".join(package for package in packages if package != "flowar.ops")
    code = f"import sys, {light}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def parameters(function: Callable[..., object]) -> dict[str, tuple[object, object]]:
    """Annotation and default of every parameter."""
    found = inspect.signature(function).parameters
    return {name: (each.annotation, each.default) for name, each in found.items()}


# What only a pipeline has: what diffusers' have too, previews, and whatever is about what comes out of it.
OF_PIPELINES = {
    "generator",
    "num_images_per_prompt",
    "output_type",
    "return_dict",
    "latents",
    "preview",
    "preview_steps",
}
OF_PIPELINES |= {"callback_on_step_end", "callback_on_step_end_tensor_inputs"}
OTHERWISE = {"self", "class_labels", "seed"}  # labels may be names, and the seed a fresh one


def test_a_pipeline_is_called_as_its_model_samples() -> None:
    """All else is the same, down to the defaults."""
    call, sample = parameters(FlowARPipeline.__call__), parameters(FlowAR.sample)
    assert call.keys() - sample.keys() == OF_PIPELINES
    assert {name: call[name] for name in sample if name not in OTHERWISE} == {
        name: sample[name] for name in sample if name not in OTHERWISE
    }


def test_options_are_those_of_the_calls() -> None:
    own = {"noise", "pins", "latents", "num_images_per_prompt", "output_type", "return_dict"}
    for options, function in ((SamplingOptions, FlowAR.sample), (PictureOptions, FlowARPipeline.__call__)):
        names = parameters(function).keys() - own - OTHERWISE
        accepted = {name: parameters(function)[name][0] for name in names}
        hints = {name: hint.__forward_arg__ for name, hint in options.__annotations__.items()}
        assert hints.pop("seed") == "int | Sequence[int]"
        assert hints == accepted


def test_only_the_command_line_prints() -> None:
    library = [path for path in SOURCES if path.relative_to(ROOT / "flowar").parts[0] not in COMMAND_LINE]
    printing = [path for path in library if "print" in called(ast.walk(ast.parse(path.read_text())))]
    assert printing == []


def test_importing_filters_no_warnings() -> None:
    """That is for a program to do, not for a library."""
    for path in SOURCES:
        at_import = [node.value for node in ast.parse(path.read_text()).body if isinstance(node, ast.Expr)]
        assert not [name for name in called(at_import) if name.startswith("warnings.")], path


def called(nodes: Iterable[ast.AST]) -> set[str]:
    """What the calls among some nodes call."""
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
