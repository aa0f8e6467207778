// out = norm(x) * (1 + scale) + shift, norm(x) = (x - mean) * rstd over the channels of a token,
//   rstd = 1 / sqrt(mean((x - mean)^2) + eps), and mean = 0 for the RMS norm.
// Moves 4 elements per element of x (2 where scale and shift broadcast).
// Backward, with g the gradient of out, n = norm(x), u = g * (1 + scale):
//   grad_x = rstd * (u - mean(u) - n * mean(u * n))   (without mean(u) for the RMS norm),
//   grad_scale = g * n (and grad_shift = g, no work). The norm is computed again: only x and scale are kept for it.
#pragma once

#include "tensor.h"

namespace flowar {

struct SpatialAdaln {
  int64_t tokens;  // per batch entry; a row is one (batch, token)
  int64_t channels;
  bool layer_norm;
  double eps;
  Input x;
  Input scale;
  Input shift;
  Output out;
};

// A grad_scale with token_stride 0 is summed over the tokens of its batch entry: rows must then come in whole entries.
struct SpatialAdalnBackward {
  int64_t tokens;
  int64_t channels;
  bool layer_norm;
  double eps;
  Input grad;
  Input x;
  Input scale;
  Output grad_x;
  Output grad_scale;
  float* parts = nullptr;  // CUDA only: token_sums.h
};

void spatial_adaln_cpu(const SpatialAdaln& p, int64_t row_begin, int64_t row_end);
void spatial_adaln_backward_cpu(const SpatialAdalnBackward& p, int64_t row_begin, int64_t row_end);

#ifdef USE_CUDA
cudaError_t spatial_adaln_cuda(const SpatialAdaln& p, int64_t rows, cudaStream_t stream);
cudaError_t spatial_adaln_backward_cuda(const SpatialAdalnBackward& p, int64_t rows, cudaStream_t stream);
#endif

}  // namespace flowar
