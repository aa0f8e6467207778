// The formula and the bytes moved: ../latent_resample.h.
#include "../latent_resample.h"

#include "resample.cuh"

namespace flowar {

cudaError_t latent_resample_cuda(const LatentResample& p, int64_t images, cudaStream_t stream) {
  const Grid grid{p.grid, p.apply.in_width * p.channels, p.channels, 1, p.channels};
  return resample(grid, Operators<1>{{p.apply}, 1}, p.out, images, stream);
}

}  // namespace flowar
