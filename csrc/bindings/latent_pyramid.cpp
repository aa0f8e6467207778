#include "../kernels/latent_pyramid.h"

#include "check.h"
#include "device.h"
#include "matrices.h"

namespace flowar {
namespace {

Tensor latent_pyramid(Tensor latents, std::vector<Tensor> rows, std::vector<Tensor> columns) {
  const Arguments arguments("latent_pyramid");
  arguments.require(latents.dim() == 4, "latents", latents, "four dimensions [batch, channels, height, width]");
  arguments.require(rows.size() <= kMaxOperators, "rows", static_cast<int64_t>(rows.size()), "at most ", kMaxOperators,
                    " matrices");
  arguments.require(rows.size() == columns.size(), "columns", static_cast<int64_t>(columns.size()),
                    "as many matrices as rows, ", static_cast<int64_t>(rows.size()));
  const int64_t batch = latents.size(0);
  const DType dtype = arguments.dtype("latents", latents);
  LatentPyramid p{.channels = latents.size(1), .height = latents.size(2), .width = latents.size(3)};
  Shape shape{batch, 0, p.channels};
  for (size_t i = 0; i < rows.size(); ++i) {
    const SeparableOperator apply = separable_operator(arguments, rows[i], columns[i], dtype);
    arguments.require(apply.in_height == p.height, "rows", rows[i], "matrices of ", p.height, " columns");
    arguments.require(apply.in_width == p.width, "columns", columns[i], "matrices of ", p.width, " columns");
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
