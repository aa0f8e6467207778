#include "../kernels/latent_resample.h"

#include "check.h"
#include "device.h"
#include "matrices.h"

namespace flowar {
namespace {

Tensor latent_resample(Tensor tokens, Tensor rows, Tensor columns) {
  const Arguments arguments("latent_resample");
  arguments.require(tokens.dim() == 3, "tokens", tokens, "three dimensions [batch, height * width, channels]");
  const DType dtype = arguments.dtype("tokens", tokens);
  LatentResample p{.channels = tokens.size(2)};
  p.apply = separable_operator(arguments, rows, columns, dtype);
  const int64_t batch = tokens.size(0), in = p.apply.in_height * p.apply.in_width;
  arguments.require(tokens.size(1) == in, "tokens", tokens, "as many tokens as rows and columns take, ",
                    p.apply.in_height, " * ", p.apply.in_width);
  if (tokens.stride(1) != p.channels) tokens = torch::stable::contiguous(tokens);
  p.grid = arguments.input("tokens", tokens, {batch, in, p.channels});
  const Shape shape{batch, p.apply.out_height * p.apply.out_width, p.channels};
  Tensor out = empty({shape.batch, shape.tokens, shape.channels}, dtype, tokens);
  p.out = contiguous_output(out, shape, dtype);
  FLOWAR_RUN(latent_resample, p, tokens, batch, 1, (in + shape.tokens) * shape.channels);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) { m.impl("latent_resample", TORCH_BOX(&latent_resample)); }

}  // namespace flowar
