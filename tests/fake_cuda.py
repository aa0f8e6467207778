"""Tensors on GPUs that are not there, and what would go wrong on them.

A tensor on "cuda" has a shape, strides, a dtype and a device, but no values (PyTorch's `FakeTensor`); tensors on the
CPU are real. Every operation passes by `FakeCuda`, which finds:

- tensors of several devices in one operation;
- values of a GPU that the host reads, for which it waits until the GPU has come so far;
- copies between host and GPU that the host waits for, and any within a CUDA graph;
- operations that nobody told the shape of their result (no fake implementation).
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from fake_driver import Driver
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode, fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flowar

OURS = (Path(flowar.__file__).parent, Path(__file__).parent)  # the package may be installed elsewhere
MIXED, READ, WAIT, RAISED = "mixed devices", "host read", "wait of the host", "raised"
TO_HOST, PICTURES, CAPTURED = "copy to the host", "copy of pictures to the host", "not for a CUDA graph"
KINDS = frozenset((MIXED, READ, WAIT, TO_HOST, PICTURES, CAPTURED))

COPIES = ("aten::_to_copy", "aten::copy_")
# Those that count the true values of a mask, beside all that PyTorch marks as having results of unknown shape.
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
VALUE = "aten::_local_scalar_dense"
READS = ("aten::equal", "aten::is_nonzero", "aten::allclose")
PAGEABLE_BYTES = 64 * 2**10  # larger copies from memory that is not pinned may wait, however they are called for


class Finding(NamedTuple):
    """What would go wrong, in which operation, called where."""

    kind: str
    operation: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.operation}, {self.where}"


class FoundError(RuntimeError):
    """Ends what cannot go on after a finding."""


class FakeCuda(TorchDispatchMode):
    """GPUs that are not there, watched.

    Attributes:
        findings: what would go wrong, of work inside `watched`.
        operations: how many ran on a GPU inside `watched`.
        to_gpu, to_host: bytes that were copied.
        pageable: copies to a GPU of more than `PAGEABLE_BYTES` from memory that is not pinned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self.driver = Driver(self.wait)
        self.kinds: frozenset[str] = frozenset()
        self.pinned: set[int] = set()  # storages
        self.clear()

    def clear(self) -> None:
        """Forget what was found and counted."""
        self.findings: list[Finding] = []
        self.operations = self.to_gpu = self.to_host = self.pageable = 0

    @contextmanager
    def installed(self) -> Iterator[FakeCuda]:
        """The machine has these GPUs."""
        only_lift = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device="cuda")` asks no driver
        address = mock.patch.object(FakeTensor, "data_ptr", address_of, create=True)
        pin = mock.patch.object(Tensor, "pin_memory", lambda tensor, *_: self.pin(tensor))
        context = mock.patch.object(fake_tensor, "init_gpu_context")
        try:
            with self.driver.installed(), address, pin, context, self:
                yield self
        finally:
            torch._C._set_only_lift_cpu_tensors(only_lift)

    @contextmanager
    def watched(self, *unless: str) -> Iterator[None]:
        """Note what would go wrong in here, but for these kinds."""
        before = self.kinds
        self.kinds = KINDS - {*unless}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # that a capture failed
                yield
        except FoundError:
            pass  # noted already
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            message = str(error).split("\n")[0]
            self.findings.append(Finding(RAISED, f"{type(error).__name__}: {message}", place(frame)))
        finally:
            self.kinds = before

    def find(self, kind: str, operation: str) -> bool:
        """Note a finding, if one is looked for."""
        if kind in self.kinds:
            ours = [frame for frame in traceback.extract_stack() if is_ours(frame)]
            self.findings.append(Finding(kind, operation, place(ours[-1])))
        return kind in self.kinds

    def wait(self, operation: str) -> None:
        """The host waits for a GPU."""
        if self.driver.recording is None:
            self.find(WAIT, operation)
        elif self.find(CAPTURED, operation):
            raise FoundError

    def pin(self, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        self.pinned.add(copy.untyped_storage()._cdata)
        return copy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        named = any(isinstance(each, torch.device) and each.type == "cuda" for each in leaves)
        if not named and not any(isinstance(each, FakeTensor) for each in leaves):
            return func(*args, **kwargs)
        if func.namespace == "prim":  # the device, of which PyTorch asks a fake tensor by an operation
            with self.fakes:
                return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        self.operations += bool(self.kinds)
        name = func._schema.name
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        if name in COPIES:
            copied = self.copied(name, tensors, kwargs)
            if copied is not None:
                return copied
        else:
            self.check_devices(func, tensors)
            self.check_reads(func, name, tensors)
            if name == VALUE:
                return torch.zeros((), dtype=tensors[0].dtype).item()
        with self.fakes:
            return func(*args, **kwargs)

    def check_devices(self, func: Any, tensors: list[Tensor]) -> None:
        """Numbers on the CPU are fine where PyTorch passes them to a kernel by value."""
        by_value = torch.Tag.pointwise in func.tags
        devices = {str(each.device) for each in tensors if each.device.type != "cpu" or each.dim() or not by_value}
        if len(devices) > 1 and self.find(MIXED, f"{func.name()} of {', '.join(sorted(devices))}"):
            raise FoundError

    def check_reads(self, func: Any, name: str, tensors: list[Tensor]) -> None:
        of_values = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags}
        if name in INDEXING:
            of_values = {each for each in tensors[1:] if each.dtype in (torch.bool, torch.uint8)}
        found = (of_values or name in READS) and self.find(READ, func.name())
        if found and (name != VALUE or self.driver.recording is not None):
            raise FoundError

    def copied(self, name: str, tensors: list[Tensor], kwargs: dict[str, Any]) -> Tensor | None:
        """Note a copy between host and GPU. What comes to the host is zeros."""
        source = tensors[-1]
        target = tensors[0].device if name == "aten::copy_" else torch.device(kwargs.get("device") or source.device)
        if source.device.type == target.type:
            return None
        if self.driver.recording is not None and self.find(CAPTURED, f"copy from {source.device} to {target}"):
            raise FoundError
        size = source.nbytes if self.kinds else 0
        if target.type == "cuda":
            self.to_gpu += size
            pinned = source.untyped_storage()._cdata in self.pinned
            self.pageable += size > PAGEABLE_BYTES and not pinned
            if not kwargs.get("non_blocking"):
                self.find(WAIT, f"copy of {list(source.shape)} from {source.device} to {target}")
        else:
            self.to_host += size
            self.find(
                PICTURES if source.dtype == torch.uint8 else TO_HOST, f"copy of {list(source.shape)} {source.dtype}"
            )
        with self.fakes if target.type == "cuda" else nullcontext():
            if name == "aten::copy_":
                return tensors[0].zero_()
            dtype = kwargs.get("dtype") or source.dtype
            empty = torch.empty_strided(source.shape, source.stride(), dtype=dtype, device=target)
            return empty.zero_().clone(memory_format=kwargs.get("memory_format") or torch.preserve_format)


def address_of(tensor: Tensor) -> int:
    """A number that no other memory has while this is in use."""
    return tensor.untyped_storage()._cdata + tensor.storage_offset() * tensor.itemsize


def is_ours(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename)
    return path.stem not in ("fake_cuda", "fake_driver") and any(folder in path.parents for folder in OURS)


def place(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename)
    inside = next((path.relative_to(folder.parent) for folder in OURS if folder in path.parents), path)
    return f"{inside}:{frame.lineno}"
