"""`flowar doctor`: what is wrong with this machine or this installation, and what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from flowar.commands import say
from flowar.doctor.examination import checks, examine
from flowar.doctor.finding import Finding
from flowar.errors import FlowARError
from flowar.system.fields import checks_fields
from flowar.system.rules import Place

EXIT_WRONG = 1


@dataclass
@checks_fields
class Options:
    """Check what sampling needs, a line per check: ok, or what to do. The exit code is 1 if something is wrong.

    Attributes:
        model: shipped name, folder, or Hub id, whose files are checked and one image drawn; or a preset (S, B, L, H)
            whose size is compared with the free memory, while the files are those of the shipped model.
        json: whether to print JSON.
        fix: whether to print nothing but the commands that mend what was found; what no command mends is said on
            stderr.
    """

    model: Place = "flowar-fashion"
    json: bool = False
    fix: bool = False


def run(options: Options) -> None:
    """Print the findings.

    Raises:
        SystemExit: if something is wrong.
    """
    if options.json and options.fix:
        raise FlowARError("json and fix: expected one of them, got both")
    found = examine(options.model)
    findings = as_json(found) if options.json else as_fixes(found) if options.fix else as_lines(found, options.model)
    if any(finding.status == "wrong" for finding in findings):
        sys.exit(EXIT_WRONG)


def as_lines(found: Iterable[tuple[str, Finding]], model: str) -> list[Finding]:
    """Print a line for every check as soon as it is done."""
    width = max(len(check.name) for check in checks(model)) + 2
    findings = []
    for name, finding in found:
        say(f"{name:<{width}}{finding}")
        findings.append(finding)
    return findings


def as_fixes(found: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """Print the commands of the remedies, each once, and on stderr the remedies that have none."""
    named = [(name, finding) for name, finding in found if finding.remedy]
    for name, finding in named:
        if not finding.commands:
            say(f"{name}: {finding.found} -> {finding.remedy}", to=sys.stderr)
    for command in dict.fromkeys(command for _, finding in named for command in finding.commands):
        say(command)
    return [finding for _, finding in named]


def as_json(found: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """Print all findings as one JSON object."""
    named = list(found)
    findings = [finding for _, finding in named]
    ok = all(finding.status != "wrong" for finding in findings)
    report = {"ok": ok, "checks": [{"name": name, **asdict(finding)} for name, finding in named]}
    say(*json.dumps(report, indent=2).splitlines())
    return findings
