#include "../kernels/checked_copy.h"

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

Tensor checked_copy(Tensor out, Tensor source) {
  const Arguments arguments("checked_copy");
  for (const auto& [name, x] : {std::pair("out", &out), std::pair("source", &source)}) {
    arguments.require_backend(name, *x);
    arguments.require(x->is_contiguous(), name, "one with gaps", "a contiguous tensor");
  }
  arguments.require(sizes_of(out) == sizes_of(source), "source", source, "the shape of out, ", out);
  const DType dtype = arguments.dtype("source", source);
  CheckedCopy p{.elements = source.numel(),
                .element_bytes = dtype == DType::kFloat64   ? 8
                                 : dtype == DType::kFloat32 ? 4
                                                            : 2};
  const int64_t run = kRunBytes / p.element_bytes, rows = (p.elements + run - 1) / run, whole = p.elements / run;
  const int64_t rest = p.elements % run * p.element_bytes, words = (rest + kWordBytes - 1) / kWordBytes;
  p.source = {source.data_ptr(), 0, run, dtype};
  p.out = {out.data_ptr(), 0, run, arguments.dtype("out", out)};
  Tensor sums = empty({whole + words + 1}, ScalarType::Long, source);
  p.sums = static_cast<uint64_t*>(sums.data_ptr());
  std::atomic<bool> broken = false;
  p.broken = &broken;
  FLOWAR_RUN(checked_copy, p, source, rows, 1, run);
  p.sums[whole + words] = broken;
  return sums;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, CompositeExplicitAutograd, m) { m.impl("checked_copy", TORCH_BOX(&checked_copy)); }

}  // namespace flowar
