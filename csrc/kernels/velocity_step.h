// One Euler step in place: v = unconditional + guidance_weight * (conditional - unconditional), or v = conditional
// without an unconditional half; state += dt * v; next = state, once or twice, in any dtype.
// Moves, per element of state, 2 (state) + 1 or 2 (velocity) + 0 to 2 (next).
#pragma once

#include "tensor.h"

namespace flowar {

struct VelocityStep {
  int64_t tokens;  // per batch entry; a row is one (batch, token)
  int64_t channels;
  double dt;
  double guidance_weight;
  Output state;  // float32 or float64
  Input conditional;
  Input unconditional;  // data is null without guidance
  int64_t copies;       // of the new state: 0, 1 or 2
  Output next[2];
};

void velocity_step_cpu(const VelocityStep& p, int64_t row_begin, int64_t row_end);

#ifdef USE_CUDA
cudaError_t velocity_step_cuda(const VelocityStep& p, int64_t rows, cudaStream_t stream);
#endif

}  // namespace flowar
