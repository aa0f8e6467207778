// sum = x + gate * branch, out = norm(sum) * (1 + scale) + shift; norm as in spatial_adaln.h.
// Moves 7 elements per element of x (4 where gate, scale and shift broadcast).
// Backward, with h and g the gradients of sum and out, and d = h + (gradient of spatial_adaln at sum, for g):
//   grad_x = d, grad_gate = d * branch, grad_branch = d * gate, grad_scale = g * norm(sum) (and grad_shift = g).
#pragma once

#include "tensor.h"

namespace flowar {

struct SpatialAdalnResidual {
  int64_t tokens;  // per batch entry; a row is one (batch, token)
  int64_t channels;
  bool layer_norm;
  double eps;
  Input x;
  Input gate;
  Input branch;
  Input scale;
  Input shift;
  Output sum;
  Output out;
};

// A grad_scale or grad_gate with token_stride 0 is summed over the tokens of its batch entry: rows must then come in
// whole entries.
struct SpatialAdalnResidualBackward {
  int64_t tokens;
  int64_t channels;
  bool layer_norm;
  double eps;
  Input grad_sum;
  Input grad_out;
  Input sum;
  Input gate;
  Input branch;
  Input scale;
  Output grad_x;
  Output grad_gate;
  Output grad_branch;
  Output grad_scale;
  float* parts = nullptr;  // CUDA only: token_sums.h
};

void spatial_adaln_residual_cpu(const SpatialAdalnResidual& p, int64_t row_begin, int64_t row_end);
void spatial_adaln_residual_backward_cpu(const SpatialAdalnResidualBackward& p, int64_t row_begin, int64_t row_end);

#ifdef USE_CUDA
cudaError_t spatial_adaln_residual_cuda(const SpatialAdalnResidual& p, int64_t rows, cudaStream_t stream);
cudaError_t spatial_adaln_residual_backward_cuda(const SpatialAdalnResidualBackward& p, int64_t rows,
                                                 cudaStream_t stream);
#endif

}  // namespace flowar
