"""Builds the ops. Everything else about the package is in pyproject.toml.

FLOWAR_NO_EXT=1      builds nothing: flowar/ops/reference.py then serves the ops
FLOWAR_BUILD_CUDA=0  leaves the CUDA library out; 1 makes it an error if it cannot be built. Otherwise it is built where
                     a toolkit is found that fits torch, with or without a GPU or a CUDA build of torch
TORCH_CUDA_ARCH_LIST, MAX_JOBS, CUDA_HOME as for any torch extension
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "csrc"))
from cuda_toolkit import architectures, find_toolkit, stub_torch_cuda  # noqa: E402

CXX_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
NVCC_FLAGS = ["-O3", "-Xcompiler=-fvisibility=hidden"]
STABLE_ABI = ("TORCH_TARGET_VERSION", "0x020b000000000000")  # torch 2.11


def import_torch():
    """The torch of the environment that the package goes to, even where pip's build isolation hides it."""
    try:
        import torch
    except ImportError:
        sys.path += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        try:
            import torch
        except ImportError as error:
            raise SystemExit(
                f"flowar: torch could not be imported ({error}). Install torch>=2.11 first, then flowar again, with "
                "--no-build-isolation if torch is out of reach of this build; or set FLOWAR_NO_EXT=1."
            ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        raise SystemExit(f"flowar: torch {torch.__version__} is too old, torch>=2.11 is needed.")
    return torch


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(f"csrc/{pattern}"))


def extensions() -> tuple[list[Extension], dict[str, type]]:
    torch = import_torch()
    import pybind11
    from torch.utils import cpp_extension

    class Build(cpp_extension.BuildExtension):
        def get_ext_filename(self, fullname: str) -> str:
            """Libraries of ops have no Python in them: `_C_cpu.so`, without a Python version in the name."""
            if fullname.split(".")[-1].startswith("_C_"):
                return str(Path(*fullname.split("."))) + ".so"
            return super().get_ext_filename(fullname)

    torch_lib = str(Path(torch.__file__).parent / "lib")
    cpu = Extension(
        "flowar._C_cpu",
        sources("ops.cpp", "bindings/*.cpp", "kernels/cpu/*.cpp"),
        include_dirs=cpp_extension.include_paths(),
        library_dirs=[torch_lib],
        libraries=["torch_cpu"],
        define_macros=[STABLE_ABI],
        extra_compile_args={"cxx": CXX_FLAGS},
    )
    built, kernels, targets = [cpu], sources("kernels/cuda/*.cu"), ""
    if home := find_toolkit(torch.version.cuda, torch.version.hip):
        targets = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", architectures(home))
        cpp_extension.CUDA_HOME, library_dirs = str(home), [torch_lib, str(home / "lib64")]
        if torch.version.cuda is None:
            cpp_extension._check_cuda_version = lambda *_: None  # compares with the CUDA version torch was built with
            library_dirs.append(stub_torch_cuda(ROOT / "build/stub"))
        cuda = Extension(
            "flowar._C_cuda",
            kernels + sources("bindings/check.cpp", *(f"bindings/{Path(kernel).stem}.cpp" for kernel in kernels)),
            include_dirs=[*cpp_extension.include_paths(), str(home / "include")],
            library_dirs=library_dirs,
            libraries=["torch_cpu", "cudart"],
            define_macros=[STABLE_ABI, ("USE_CUDA", None)],
            extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
            extra_link_args=["-Wl,--no-as-needed", "-ltorch_cuda"],  # to be loaded, though the stub is empty
        )
        built.append(cuda)
    macros = [("FLOWAR_TORCH_VERSION", f'"{torch.__version__}"'), ("FLOWAR_CUDA_ARCHITECTURES", f'"{targets}"')]
    options = {"include_dirs": [pybind11.get_include()], "extra_compile_args": ["-g0", "-fvisibility=hidden"]}
    built.append(Extension("flowar._build_info", ["csrc/build_info.cpp"], define_macros=macros, **options))
    return built, {"build_ext": Build}


gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
os.environ.setdefault("MAX_JOBS", str(max(1, min(os.cpu_count() or 1, gigabytes // 2))))
ext_modules, cmdclass = ([], {}) if os.environ.get("FLOWAR_NO_EXT") == "1" else extensions()
# The licence stands here because setuptools before 77 refuses in pyproject.toml what later ones want there.
setup(ext_modules=ext_modules, cmdclass=cmdclass, license="Apache-2.0")
