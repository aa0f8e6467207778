"""Mutants of C++, from its tokens, as clang-format sets them: operators of two operands stand between spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mutation.mutants import SWAPS, Mutant

# What is not mutated: comments, strings, directives with all their lines, and sizes of memory for scratch.
NO_CODE = re.compile(
    r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)+'"
    r"|^[ ]*#(?:[^\n]*\\\n)*[^\n]*|\bstatic_assert\([^;]*;|^[ ]*[A-Z]\w* \w+(?:\[\w+\])+;|\bScratch<\w+> \w+\(\d+",
    re.DOTALL | re.MULTILINE,
)
CPP_SWAPS = SWAPS | {"&&": "||", "||": "&&"}
OPERATOR = re.compile(r"(?<= )(<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>&|^])(?= )|(?<= )([-+*/&|^])(?==\s)")
SIGN = re.compile(r"(?<=[ (\[{,])[-!](?=[\w(])")
NUMBER = re.compile(
    r"(?<![\w.])(0x[\da-f]+(?:\.\d+)?(?:p[-+]?\d+)?|\d+(?:\.\d*)?(?:e[-+]?\d+)?)(f|u?)\b", re.IGNORECASE
)
TRUTH = re.compile(r"\b(true|false)\b")
SWAPPED = re.compile(r"^!|[=!]= ")  # a condition that another fault negates
CONDITION = re.compile(r"\b(?:if|while) \(")
# A call or an assignment; with a type before the name it would be a declaration.
STATEMENT = re.compile(
    r"(?<=[;{})])\s*((?!return\b|if\b|for\b|while\b|switch\b)[A-Za-z_+][^;{}=( ]*(?: [-+*/&|^]?= |\()[^;{}]*;)"
)
RETURN = re.compile(r"\breturn ([^;{}]+);")


def cpp_mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a file; some may not compile."""
    text = source.decode("latin-1")  # a character for every byte
    code = NO_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return [Mutant(file, *each) for each in sorted(edits(code, text))]


def edits(code: str, text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and replacement of every fault; `code` is `text` without what is not mutated."""
    for match in OPERATOR.finditer(code):
        yield match.start(), match.end(), CPP_SWAPS[match[0]]
    for match in SIGN.finditer(code):
        yield match.start(), match.end(), ""
    for match in NUMBER.finditer(code):
        yield match.start(), match.end(), f"({match[0]} + 1)"
    for match in TRUTH.finditer(code):
        yield match.start(), match.end(), "false" if match[0] == "true" else "true"
    for match in CONDITION.finditer(code):
        end = closing(code, match.end())
        condition = text[match.end() : end]
        if not SWAPPED.search(condition):
            yield match.end(), end, f"!({condition})"
    for match in STATEMENT.finditer(code):
        yield *match.span(1), ";"
    for match in RETURN.finditer(code):
        if match[1] not in ("true", "false"):
            yield *match.span(1), "{}"


def closing(code: str, at: int) -> int:
    """The offset of the parenthesis that closes the one before `at`."""
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(code[at], 0)
        at += 1
    return at - 1
