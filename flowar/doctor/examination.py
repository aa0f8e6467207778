"""The checks in their order, where none fails because of what another found broken."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from flowar.doctor import build, cuda, environment, memory, model_files, sample, serving
from flowar.doctor.finding import Finding, skipped, wrong
from flowar.errors import first_line
from flowar.system.installation import REBUILD


@dataclass(frozen=True)
class Check:
    """A check, which makes a line of the report.

    Attributes:
        name: the name at the start of the line.
        examine: the function that checks.
        needs: names of earlier checks; if one of them found something wrong, this one is skipped.
        remedy: the remedy of an error that `examine` did not expect.
    """

    name: str
    examine: Callable[[], Finding]
    needs: tuple[str, ...] = ()
    remedy: str = "report it with this line"


def checks(model: str) -> list[Check]:
    """The checks before sampling from `model`, a shipped name, folder or Hub id, or the name of a preset."""
    files = model_files.with_files(model)
    return [
        Check("python", environment.python),
        Check("torch", environment.torch_build, remedy=environment.REINSTALL_TORCH),
        Check("driver", cuda.driver, remedy=cuda.REINSTALL_DRIVER),
        Check("toolkit", cuda.toolkit, remedy=cuda.REINSTALL_TOOLKIT),
        Check("cuda", cuda.cuda, ("torch", "driver", "toolkit"), cuda.INSTALL_CUDA_TORCH),
        Check("compiler", build.compiler, remedy=build.INSTALL_COMPILER),
        Check("ops", build.ops, ("torch",), REBUILD),
        Check("attention", serving.attention, ("torch", "ops"), serving.REINSTALL_FLASH),
        Check("precision", serving.precision, ("torch",), environment.REINSTALL_TORCH),
        Check("model", partial(model_files.checksums, files), remedy=model_files.CHOOSE_MODEL),
        Check("memory", partial(memory.memory, model), ("torch", "ops", "model")),
        Check("sample", partial(sample.sample, files), ("torch", "ops", "model", "memory")),
    ]


def examine(model: str) -> Iterator[tuple[str, Finding]]:
    """Run the checks, and yield the name and the finding of each as soon as it is done."""
    failed: set[str] = set()
    for check in checks(model):
        missing = [name for name in check.needs if name in failed]
        finding = skipped(f"needs {', '.join(missing)}") if missing else shielded(check)
        if finding.status in ("wrong", "skipped"):
            failed.add(check.name)
        yield check.name, finding


def shielded(check: Check) -> Finding:
    """Run a check; an error of any kind becomes a finding too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is in the findings
            return check.examine()
    except Exception as error:
        return wrong(f"{type(error).__name__}: {first_line(error)}", check.remedy)
