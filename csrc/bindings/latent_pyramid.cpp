#include "../kernels/latent_pyramid.h"

#include "check.h"
#include "device.h"
#include "matrices.h"

namespace flowar {
namespace {

Tensor latent_pyramid(Tensor latents, std::vector<Tensor> rows, std::vector<Tensor> columns) {
  const Arguments arguments("latent_pyramid");
  arguments.require(latents.dim() == 4, "latents", "four dimensions [batch, channels, height, width]", latents);
  arguments.require(rows.size() == columns.size() && rows.size() <= kMaxOperators, "rows and columns",
                    "the same number of matrices, at most " + std::to_string(kMaxOperators),
                    std::to_string(rows.size()) + " and " + std::to_string(columns.size()));
  const int64_t batch = latents.size(0);
  const DType dtype = arguments.dtype("latents", latents);
  LatentPyramid p{.channels = latents.size(1), .height = latents.size(2), .width = latents.size(3)};
  Shape shape{batch, 0, p.channels};
  for (size_t i = 0; i < rows.size(); ++i) {
    const SeparableOperator apply = separable_operator(arguments, rows[i], columns[i], dtype);
    arguments.require(apply.in_height == p.height, "rows", "matrices [.., " + std::to_string(p.height) + "]", rows[i]);
    arguments.require(apply.in_width == p.width, "columns", "matrices [.., " + std::to_string(p.width) + "]",
                      columns[i]);
    shape.tokens += apply.out_height * apply.out_width;
    p.apply[p.operators++] = apply;
  }
  latents = torch::stable::reshape(latents, std::vector<int64_t>{batch, p.channels, p.height * p.width});
  p.latents = arguments.input("latents", latents, {batch, p.channels, p.height * p.width});
  Tensor out = empty({batch, shape.tokens, p.channels}, dtype, latents);
  p.out = contiguous_output(out, shape, dtype);
  FLOWAR_RUN(latent_pyramid, p, latents, batch, 1, (p.height * p.width + shape.tokens) * p.channels);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) { m.impl("latent_pyramid", TORCH_BOX(&latent_pyramid)); }

}  // namespace flowar
