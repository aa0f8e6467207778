"""Files of the repository that pages link to, though they lie outside of `docs/`: they become a part of the site.

So a link such as `../benchmarks/README.md` leads to the same text here as where the repository is read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = "docs"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs calls this with what is in `docs/`."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        uri = waiting.pop()
        for link in LINK.findall((ROOT / in_repository(uri)).read_text()):
            target = resolved(uri, link)
            found = in_site(target)
            if files.get_file_from_path(found) or not (ROOT / target).is_file():
                continue
            files.append(File.generated(config, found, abs_src_path=str(ROOT / target)))
            waiting += [found] * (ROOT / target).suffix.startswith(".md")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """mkdocs calls this with the text of every page: links go where the files are in the site."""
    uri = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        return os.path.relpath(in_site(resolved(uri, link[0])), PurePosixPath(uri).parent)

    return LINK.sub(moved, markdown)


def in_repository(uri: str) -> str:
    """Where a file of the site lies in the repository: below `docs/`, unless it is only there without."""
    return f"{DOCS}/{uri}" if (ROOT / DOCS / uri).exists() else uri


def in_site(path: str) -> str:
    """The site's name for a file of the repository."""
    return path.removeprefix(f"{DOCS}/")


def resolved(uri: str, link: str) -> str:
    """The path in the repository that a link on a page means."""
    return os.path.normpath(PurePosixPath(in_repository(uri)).parent / link)
