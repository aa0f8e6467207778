"""A temporary copy of the repository, in which files are mutated."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path

from mutation.mutants import Mutant


def copy_tree(checkout: Path, folder: Path) -> None:
    """Copy what git knows or would add, as it is now, and the compiled libraries."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=checkout, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [checkout / name for name in names if name and (checkout / name).is_file()]
    for file in [*files, *checkout.glob("flowar/*.so")]:
        target = folder / file.relative_to(checkout)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


@contextmanager
def mutated(folder: Path, mutant: Mutant) -> Iterator[None]:
    """In this context the copy in `folder` has the mutant's fault."""
    path = folder / mutant.file
    source = path.read_bytes()
    try:
        write(path, mutant.applied(source))
        yield
    finally:
        write(path, source)


def write(path: Path, source: bytes) -> None:
    path.write_bytes(source)
    if path.suffix == ".py":  # its bytecode counts as that of any source of the same size and second
        Path(cache_from_source(str(path))).unlink(missing_ok=True)
