// out = silu(a + b), silu(s) = s * sigmoid(s). Moves 3 elements per output element (2 where b broadcasts).
// Backward, with g the gradient of out and sigma = sigmoid(a + b):
//   grad = g * sigma * (1 + (a + b) * (1 - sigma)), the gradient of a, and of b before it is summed to b's shape.
#pragma once

#include "tensor.h"

namespace flowar {

struct SiluAdd {
  int64_t tokens;  // per batch entry; a row is one (batch, token)
  int64_t channels;
  Input a;
  Input b;
  Output out;
};

struct SiluAddBackward {
  int64_t tokens;
  int64_t channels;
  Input grad;
  Input a;
  Input b;
  Output grad_sum;
};

void silu_add_cpu(const SiluAdd& p, int64_t row_begin, int64_t row_end);
void silu_add_backward_cpu(const SiluAddBackward& p, int64_t row_begin, int64_t row_end);

#ifdef USE_CUDA
cudaError_t silu_add_cuda(const SiluAdd& p, int64_t rows, cudaStream_t stream);
cudaError_t silu_add_backward_cuda(const SiluAddBackward& p, int64_t rows, cudaStream_t stream);
#endif

}  // namespace flowar
