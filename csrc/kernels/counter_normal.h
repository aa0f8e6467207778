// Standard normals as a pure function of (seed, stream, index): Philox4x32-10 (Salmon et al., SC 2011) with counter
// (index / 4, 0, stream, 0) and key (low, high word of the seed), then Box-Muller on its words (0, 1) and (2, 3):
//   u = (word + 0.5) 2^-32,  r = sqrt(-2 ln u_first),  r cos(2 pi u_second) and r sin(2 pi u_second).
// Computed in double and rounded once. Moves 4 bytes per number.
#pragma once

#include "tensor.h"

namespace flowar {

struct CounterNormal {
  int64_t count;  // numbers per seed
  uint32_t stream;
  const int64_t* seeds;
  float* out;  // [seeds, count] contiguous
};

// Rows of the CPU kernel are pieces of this many numbers.
constexpr int64_t kNormalsPerPiece = 1024;

void counter_normal_cpu(const CounterNormal& p, int64_t piece_begin, int64_t piece_end);

#ifdef USE_CUDA
cudaError_t counter_normal_cuda(const CounterNormal& p, int64_t pieces, cudaStream_t stream);
#endif

}  // namespace flowar
