"""What a CUDA kernel costs, by count: registers, instructions, and the share of the copy rate that they leave room for.

    python benchmarks/sass_table.py             # prints the table
    python benchmarks/sass_table.py --write     # puts it into README.md

Needs no GPU: nvcc compiles every kernel for compute capability 9.0, and nvdisasm, of the toolkit or of the package
`triton`, shows the machine code. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sass import Function, functions, path
from tables import markdown

ROOT = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- sass_table.py -->\n", "<!-- end of sass_table.py -->\n"
HEADER = (
    *("kernel: of a thread", "registers", "spilled bytes", "shared bytes of a block", "instructions", "busiest pipe"),
    *("calls", "bytes", "cycles of a copy", "share"),
)

# An H200: bytes per second that a copy moves, 90 % of what the data sheet says, for each cycle of each scheduler.
COPY_BYTES_PER_CYCLE = 0.9 * 4.8e12 / (132 * 4 * 1.98e9)
WARP = 32

# Cycles for which an instruction of a warp keeps its pipe busy: 32 lanes by the results per clock and multiprocessor,
# a quarter of them for each scheduler, in the CUDA programming guide's table for compute capability 9.0. Whatever is
# not named here takes a slot of the scheduler and no more.
PIPES = {
    "special": (8, "MUFU F2I I2F F2F I2I"),  # 16 per clock
    "memory": (4, "LDG STG LDS STS SHFL"),  # 32
    "double": (2, "DADD DMUL DFMA DSETP"),  # 64
    "integer": (2, "IADD3 ISETP LOP3 SHF LEA PRMT SEL VIADD VIMNMX IMNMX FSEL FMNMX FSETP F2FP"),  # 64
}


@dataclass(frozen=True)
class Kernel:
    """One to be counted: of the file's functions that whose mangled name has `pattern` in it.

    Attributes:
        bytes: that a thread moves; None where caches serve the kernel.
        per: what a thread works on.
        inner_trips: how often innermost loops run.
    """

    name: str
    file: str
    pattern: str
    bytes: int | None
    per: str = "8 channels"
    inner_trips: int = 1


BF16 = "LNS_5DTypeE2E"  # the template argument DType::kBFloat16
KERNELS = (
    Kernel("geglu", "geglu", f"ForwardILi8E{BF16}", 3 * 16),
    Kernel("geglu, backward", "geglu", f"BackwardILi8E{BF16}", 5 * 16),
    Kernel("silu_add", "silu_add", f"ForwardILi8E{BF16}", 3 * 16),
    Kernel("silu_add, backward", "silu_add", f"BackwardILi8E{BF16}", 4 * 16),
    Kernel("spatial_adaln", "spatial_adaln", f"forward_kernelINS_4HeldI{BF16}", 4 * 16),
    Kernel("spatial_adaln, backward", "spatial_adaln", f"backward_kernelINS_4HeldI{BF16}", 5 * 16),
    Kernel("spatial_adaln_residual", "spatial_adaln_residual", f"forward_kernelINS_4HeldI{BF16}", 7 * 16),
    Kernel("spatial_adaln_residual, backward", "spatial_adaln_residual", f"backward_kernelINS_4HeldI{BF16}", 10 * 16),
    Kernel("rotary_qkv", "rotary_qkv", f"ForwardILi8E{BF16}", 6 * 16, "8 channels of q, k, v"),
    Kernel("rotary_qkv, backward", "rotary_qkv", f"BackwardILi8E{BF16}", 6 * 16, "8 channels of q, k, v"),
    Kernel("velocity_step", "velocity_step", f"StepILi8E{BF16}", 2 * 32 + 4 * 16, "8 channels, guided, two copies"),
    Kernel("quantize_rows", "quantize_rows", f"quantize_rows_kernelINS_4HeldI{BF16}", 16 + 8),
    Kernel("sums over tokens, second kernel", "spatial_adaln", "add_parts_kernel", 17 * 4, "1 channel of 16 parts", 2),
    Kernel("counter_normal", "counter_normal", "NormalsE", 4 * 4, "4 numbers"),
    Kernel("latent_resample", "latent_resample", "resample_kernelILi1E", None, "1 number, lines of 16", 4),
    Kernel("latent_pyramid", "latent_pyramid", "resample_kernelILi32E", None, "1 number, lines of 16", 4),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="What every CUDA kernel costs, by its machine code.")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    nvcc, nvdisasm = tool("nvcc"), tool("nvdisasm")
    compiled = {file: Compiled(file, nvcc, nvdisasm) for file in dict.fromkeys(kernel.file for kernel in KERNELS)}
    table = markdown(HEADER, [row(kernel, compiled[kernel.file]) for kernel in KERNELS])
    text = f"{BEGIN}{table}\n\nnvcc {version(nvcc)}.\n{END}"
    print(text)
    if options.write:
        README.write_text(replaced(README.read_text(), text))


def tool(name: str) -> str:
    """The path of a program of the CUDA toolkit: on PATH, in CUDA_HOME, or as the package `triton` brings it."""
    folders = [os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin"]
    if triton := importlib.util.find_spec("triton"):
        folders += [f"{place}/backends/nvidia/bin" for place in triton.submodule_search_locations or ()]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise SystemExit(f"{name}: expected it on PATH, in CUDA_HOME/bin or in the package triton, got none")
    return found


def version(nvcc: str) -> str:
    found = re.search(r"release ([\d.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    return found[1] if found else "of unknown version"


class Compiled:
    """The functions of a .cu, and what ptxas says of them."""

    def __init__(self, file: str, nvcc: str, nvdisasm: str) -> None:
        source = ROOT / f"csrc/kernels/cuda/{file}.cu"
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder, "kernel.cubin")
            command = [nvcc, "-std=c++17", "-O3", "-DUSE_CUDA", "-cubin", "-arch=sm_90", "-Xptxas", "-v"]
            self.log = output([*command, source, "-o", cubin])
            self.functions = list(functions(output([nvdisasm, "-c", cubin])))

    def function(self, pattern: str) -> Function:
        (found,) = (function for function in self.functions if pattern in function.name)
        return found

    def resources(self, name: str) -> tuple[int, int, int]:
        """Registers of a thread, bytes that it spills, bytes of shared memory of a block."""
        entry = self.log.split(f"'{name}'")[1].split("Compiling entry")[0]
        patterns = (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
        found = (re.search(pattern, entry) for pattern in patterns)
        registers, spilled, shared = (int(number[1]) if number else 0 for number in found)
        return registers, spilled, shared


def output(command: list[str | Path]) -> str:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{command[0]}: expected exit code 0, got {run.returncode}\n{run.stderr}")
    return run.stdout + run.stderr


def row(kernel: Kernel, compiled: Compiled) -> tuple[object, ...]:
    function = compiled.function(kernel.pattern)
    issued = path(function, kernel.inner_trips)
    pipe, cycles = busiest(issued)
    counted = *compiled.resources(function.name), issued.total(), f"{pipe} {cycles}", function.calls
    if kernel.bytes is None:
        return f"{kernel.name}: {kernel.per}", *counted, "", "", ""
    copy = copy_cycles(kernel.bytes)
    return f"{kernel.name}: {kernel.per}", *counted, kernel.bytes, round(copy), f"{100 * min(1, copy / cycles):.0f} %"


def busiest(issued: Counter[str]) -> tuple[str, int]:
    """The pipe of a scheduler that a warp keeps busy for longest, and for how many cycles."""
    cycles = {"issue": issued.total()}
    for pipe, (each, names) in PIPES.items():
        cycles[pipe] = each * sum(count for opcode, count in issued.items() if opcode.split(".")[0] in names.split())
    return max(cycles.items(), key=lambda item: item[1])


def copy_cycles(bytes_of_thread: int) -> float:
    """Cycles of a scheduler in which a copy moves the bytes of a warp."""
    return WARP * bytes_of_thread / COPY_BYTES_PER_CYCLE


def replaced(page: str, text: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return before + text + rest.split(END)[1]


if __name__ == "__main__":
    main()
