// The formula and the bytes moved: ../latent_pyramid.h. One launch for all operators.
#include "../latent_pyramid.h"

#include "resample.cuh"

namespace flowar {

cudaError_t latent_pyramid_cuda(const LatentPyramid& p, int64_t images, cudaStream_t stream) {
  const Grid grid{p.latents, p.width, 1, p.latents.token_stride, p.channels};
  Operators<kMaxOperators> operators{{}, p.operators};
  std::copy_n(p.apply, p.operators, operators.apply);
  return resample(grid, operators, p.out, images, stream);
}

}  // namespace flowar
