#include "../kernels/counter_normal.h"

#include <limits>

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

Tensor counter_normal(Tensor seeds, int64_t stream, int64_t count) {
  const Arguments arguments("counter_normal");
  arguments.require(seeds.dim() == 1, "seeds", seeds, "one dimension");
  arguments.require(seeds.scalar_type() == ScalarType::Long, "seeds", "another dtype", "int64");
  arguments.require(stream >= 0 && stream <= std::numeric_limits<uint32_t>::max(), "stream", stream, "0 .. 2^32 - 1");
  arguments.require(count >= 0 && count <= int64_t{1} << 34, "count", count, "0 .. 2^34");
  arguments.require_backend("seeds", seeds);
  seeds = torch::stable::contiguous(seeds);
  Tensor out = empty({seeds.size(0), count}, DType::kFloat32, seeds);
  const CounterNormal p{.count = count,
                        .stream = static_cast<uint32_t>(stream),
                        .seeds = static_cast<const int64_t*>(seeds.data_ptr()),
                        .out = static_cast<float*>(out.data_ptr())};
  const int64_t pieces = (count + kNormalsPerPiece - 1) / kNormalsPerPiece;
  FLOWAR_RUN(counter_normal, p, seeds, seeds.size(0) * pieces, 1, kNormalsPerPiece);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) { m.impl("counter_normal", TORCH_BOX(&counter_normal)); }

}  // namespace flowar
