// Many latent_resample of one grid, their tokens one after the other; the grid comes channels first, as a VAE gives it.
// Moves the grid once in and the results once out.
#pragma once

#include "latent_resample.h"

namespace flowar {

constexpr int64_t kMaxOperators = 32;

// latents [batch, channels, height, width] with adjacent height and width; out [batch, tokens, channels] contiguous.
struct LatentPyramid {
  int64_t channels;
  int64_t height, width;
  int64_t operators;
  SeparableOperator apply[kMaxOperators];
  Input latents;  // token_stride is the stride of the channels
  Output out;
};

void latent_pyramid_cpu(const LatentPyramid& p, int64_t image_begin, int64_t image_end);

#ifdef USE_CUDA
cudaError_t latent_pyramid_cuda(const LatentPyramid& p, int64_t images, cudaStream_t stream);
#endif

}  // namespace flowar
