"""Text of unknown origin in Markdown shows as it is."""

from __future__ import annotations

import html
import re

import pytest

from flowar.system.markdown import plain

ODD = (
    *("<img src=//x>", "![x](http://e/x.png)", "[x](javascript:alert)", "[x][y]", "a | b", "`c`", "*d*", "__e__"),
    *("_f_", "~~g~~", "&lt;", "\\", "\\|", "\\*h*", "<!-- i", "</td></table>", "&#60;b>", "![", "](", "$j$", "k]"),
)


@pytest.mark.parametrize(
    "text", ["golden retriever", "num_inference_steps", "[0, 1.5]", "a/b-c.d", "é_ü", "5: x, y", "#1"]
)
def test_what_has_no_meaning_stays(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize("text", ODD)
def test_shows_as_itself(text: str) -> None:
    markdown = pytest.importorskip("markdown", reason="the package markdown, of the extra docs, is not installed")
    shown = markdown.markdown(f"| name | value |\n|---|---|\n| {plain(text)} | 1 |", extensions=["tables"])
    (cells,) = re.findall(r"<tr>\n<td>(.*)</td>\n<td>(.*)</td>\n</tr>", shown)
    # Those that GitHub has, and this renderer not, have no meaning here that could be taken away.
    assert (re.sub(r"\\([~$:])", r"\1", html.unescape(cells[0])), cells[1]) == (text, "1")
    assert "<" not in cells[0]


def test_one_line() -> None:
    assert plain("a\r\nb\x1b[31m\u2028") == "a b [31m"


def test_addresses_do_not_become_links() -> None:
    assert plain("http://e/x.png WWW.e.com") == r"http\://e/x.png WWW\.e.com"
