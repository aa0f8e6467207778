"""Text of unknown origin inside Markdown."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
HTML = str.maketrans({"&": "&amp;", "<": "&lt;"})
# Characters that have a meaning anywhere; underscores beside letters have none. Then the ends of links and pictures,
# and addresses that become links by themselves.
SPECIAL = re.compile(r"[\\`*|~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def plain(text: object) -> str:
    r"""`text` as a part of a line of Markdown that shows it as it is, in a table too.

    It makes no emphasis, code, HTML, link, picture or cell of its own; control characters become spaces.

    Example:
        >>> plain("<b>*a*|b")
        '&lt;b>\\*a\\*\\|b'
    """
    return SPECIAL.sub(r"\\\g<0>", CONTROL.sub(" ", str(text)).translate(HTML)).strip()
