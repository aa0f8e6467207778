// out = gelu(a) * b with packed = [a, b] along channels and the exact gelu(a) = a * Phi(a).
// Moves 3 elements per output element. Backward, with g the gradient of out:
//   grad_a = g * b * (Phi(a) + a * phi(a)),  grad_b = g * gelu(a).  Moves 5 elements per output element.
#pragma once

#include "tensor.h"

namespace flowar {

struct Geglu {
  int64_t tokens;  // per batch entry; a row is one (batch, token)
  int64_t hidden;  // channels of out
  Input packed;
  Output out;
};

struct GegluBackward {
  int64_t tokens;
  int64_t hidden;
  Input grad;
  Input packed;
  Output grad_packed;
};

void geglu_cpu(const Geglu& p, int64_t row_begin, int64_t row_end);
void geglu_backward_cpu(const GegluBackward& p, int64_t row_begin, int64_t row_end);

#ifdef USE_CUDA
cudaError_t geglu_cuda(const Geglu& p, int64_t rows, cudaStream_t stream);
cudaError_t geglu_backward_cuda(const GegluBackward& p, int64_t rows, cudaStream_t stream);
#endif

}  // namespace flowar
