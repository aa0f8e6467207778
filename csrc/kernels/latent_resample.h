// out[i, j] = sum over p, q of rows[i, p] * columns[j, q] * grid[p, q], a separable linear operator on the grid of
// tokens (row-major, channels last). Zero weights are skipped: the operators of resampling are banded. Moves the grid
// once in and the result once out. Backward is the same with the matrices transposed.
#pragma once

#include "tensor.h"

namespace flowar {

// rows [out_height, in_height] and columns [out_width, in_width], contiguous float32, or float64 where the tokens are.
struct SeparableOperator {
  const void* rows;
  const void* columns;
  int64_t in_height, in_width;
  int64_t out_height, out_width;
};

// The tokens of an image are adjacent (token stride = channels) in `grid` and `out`.
struct LatentResample {
  int64_t channels;
  SeparableOperator apply;
  Input grid;
  Output out;
};

void latent_resample_cpu(const LatentResample& p, int64_t image_begin, int64_t image_end);

#ifdef USE_CUDA
cudaError_t latent_resample_cuda(const LatentResample& p, int64_t images, cudaStream_t stream);
#endif

}  // namespace flowar
