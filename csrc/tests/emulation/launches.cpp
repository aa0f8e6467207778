// How many kernels were launched, as an op: what tells a test that an op of the library ran under emulation.
#include <torch/csrc/stable/library.h>

#include "block.h"

namespace {

int64_t launches() { return emulation::launches; }

}  // namespace

STABLE_TORCH_LIBRARY(flowar_emulation, m) { m.def("launches() -> int"); }

STABLE_TORCH_LIBRARY_IMPL(flowar_emulation, CompositeExplicitAutograd, m) { m.impl("launches", TORCH_BOX(&launches)); }
