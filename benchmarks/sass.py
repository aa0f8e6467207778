"""Reads the machine code of kernels, as nvdisasm prints it, and counts what a warp issues from entry to exit."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

FUNCTION = re.compile(r"^\.text\.(\w+):")
LABEL = re.compile(r"^(\.L_x_\d+):")
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")


@dataclass(frozen=True)
class Instruction:
    address: int
    guarded: bool
    opcode: str
    target: str | None

    @property
    def ends_block(self) -> bool:
        return self.opcode.split(".")[0] in ("BRA", "EXIT", "RET") and not self.handles_divergence

    @property
    def handles_divergence(self) -> bool:
        """Whether this jumps where the threads of a warp have parted before a shuffle: whole warps never do."""
        return self.opcode == "BRA.DIV"


@dataclass(frozen=True)
class Function:
    name: str
    instructions: list[Instruction]
    labels: dict[str, int]  # the address of each

    @property
    def calls(self) -> int:
        return sum(instruction.opcode.startswith("CALL") for instruction in self.instructions)


@dataclass
class Node:
    """Instructions that follow one another, or a loop; and what may come next."""

    opcodes: Counter[str] = field(default_factory=Counter)
    next: set[int] = field(default_factory=set)
    exits: bool = False


Graph = dict[int, Node]


def functions(listing: str) -> Iterator[Function]:
    """The functions in what `nvdisasm -c` prints."""
    function, waiting = None, []
    for line in listing.splitlines():
        if found := FUNCTION.match(line):
            if function is not None:
                yield function
            function, waiting = Function(found[1], [], {}), []
        elif found := LABEL.match(line):
            waiting.append(found[1])
        elif function is not None and (found := INSTRUCTION.search(line)):
            address, target = int(found[1], 16), TARGET.search(found[4])
            function.labels.update(dict.fromkeys(waiting, address))
            waiting = []
            function.instructions.append(Instruction(address, bool(found[2]), found[3], target[1] if target else None))
    if function is not None:
        yield function


def control_flow(function: Function) -> Graph:
    """What may follow what, by address. Calls return."""
    code = function.instructions
    starts = {code[0].address, *function.labels.values()}
    starts |= {after.address for instruction, after in itertools.pairwise(code) if instruction.ends_block}
    graph: Graph = {}
    for instruction, after in zip(code, [*code[1:], None], strict=True):
        if instruction.address in starts:
            node = graph[instruction.address] = Node()
        node.opcodes[instruction.opcode] += 1
        if instruction.ends_block:
            if instruction.target in function.labels:
                node.next.add(function.labels[instruction.target])
            node.exits |= instruction.opcode == "EXIT"
        falls_through = instruction.guarded or not instruction.ends_block
        if falls_through and after is not None and after.address in starts:
            node.next.add(after.address)
    return reachable(graph, code[0].address)


def reachable(graph: Graph, entry: int) -> Graph:
    found, waiting = set(), [entry]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += graph[at].next
    return {at: graph[at] for at in sorted(found)}


def predecessors(graph: Graph) -> dict[int, set[int]]:
    return {at: {before for before, node in graph.items() if at in node.next} for at in graph}


def dominators(graph: Graph, entry: int) -> dict[int, set[int]]:
    """For every node those that each way to it passes."""
    before = predecessors(graph)
    result = {at: {entry} if at == entry else set(graph) for at in graph}
    changed = True
    while changed:
        changed = False
        for at in graph.keys() - {entry}:
            new = {at} | set.intersection(*(result[each] for each in before[at]))
            changed |= new != result[at]
            result[at] = new
    return result


def loops(graph: Graph, entry: int) -> dict[int, set[int]]:
    """The nodes of each loop, by its first one; inner loops come first."""
    before, dominating = predecessors(graph), dominators(graph, entry)
    result: dict[int, set[int]] = {}
    for latch, node in graph.items():
        for head in node.next & dominating[latch]:
            body, waiting = result.setdefault(head, {head}), [latch]
            while waiting:
                at = waiting.pop()
                if at not in body:
                    body.add(at)
                    waiting += before[at]
    return dict(sorted(result.items(), key=lambda loop: len(loop[1])))


def longest(graph: Graph, entry: int, ends: set[int]) -> Counter[str]:
    """The opcodes on the longest way from entry to one of `ends`; the graph has no loops."""
    best: dict[int, Counter[str] | None] = {}

    def from_here(at: int) -> Counter[str] | None:
        if at not in best:
            ways = [way for after in graph[at].next if (way := from_here(after)) is not None]
            rest = max(ways, key=Counter.total, default=Counter() if at in ends else None)
            best[at] = None if rest is None else graph[at].opcodes + rest
        return best[at]

    return from_here(entry) or Counter()


def path(function: Function, inner_trips: int = 1) -> Counter[str]:
    """The opcodes on the longest way from entry to exit, with how often each is issued.

    Args:
        function: of a kernel.
        inner_trips: how often loops run that have no loop within them. All others run once.
    """
    graph = control_flow(function)
    entry = next(iter(graph))
    collapsed: set[int] = set()
    for head, body in loops(graph, entry).items():
        inside = {at: node for at, node in graph.items() if at in body}
        within = {at: Node(node.opcodes, node.next & body - {head}) for at, node in inside.items()}
        once = longest(within, head, {at for at, node in inside.items() if head in node.next})
        trips = 1 if body & collapsed else inner_trips
        whole = Node(Counter({opcode: count * trips for opcode, count in once.items()}))
        whole.next = set().union(*(node.next for node in inside.values())) - body
        whole.exits = any(node.exits for node in inside.values())
        graph = {at: node for at, node in graph.items() if at not in body} | {head: whole}
        collapsed |= body
    return longest(graph, entry, {at for at, node in graph.items() if node.exits})
