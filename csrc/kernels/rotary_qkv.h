// Splits packed [batch, tokens, parts * heads * dim] into its parts and rotates all but the value (part 2 of 3, 1 of
// 2):
//   out[2j] = x[2j] cos[j] - x[2j+1] sin[j],  out[2j+1] = x[2j+1] cos[j] + x[2j] sin[j],
// (cos, sin) = rotation[token, j]. Each part has a place of its own, so k and v can go straight into a cache.
// Moves 2 elements per element of packed. Backward is the same with -sin, from the parts into packed.
#pragma once

#include "tensor.h"

namespace flowar {

// One part [batch, tokens, heads, dim]; token strides as in Tokens, adjacent channels within a head.
struct Heads {
  Output tokens;
  int64_t head_stride;
};

struct RotaryQkv {
  int64_t tokens;  // per batch entry; a row is one (batch, token)
  int64_t heads;
  int64_t dim;
  int64_t parts;
  Input packed;
  Input rotation;  // [1, tokens, dim] as pairs (cos, sin); float32, or float64 where packed is
  Heads part[3];
};

struct RotaryQkvBackward {
  int64_t tokens;
  int64_t heads;
  int64_t dim;
  int64_t parts;
  int64_t part_stride;  // elements from one part of grad to the next
  Input grad;           // [parts, batch, tokens, heads * dim]
  Input rotation;
  Output grad_packed;
};

void rotary_qkv_cpu(const RotaryQkv& p, int64_t row_begin, int64_t row_end);
void rotary_qkv_backward_cpu(const RotaryQkvBackward& p, int64_t row_begin, int64_t row_end);

#ifdef USE_CUDA
cudaError_t rotary_qkv_cuda(const RotaryQkv& p, int64_t rows, cudaStream_t stream);
cudaError_t rotary_qkv_backward_cuda(const RotaryQkvBackward& p, int64_t rows, cudaStream_t stream);
#endif

}  // namespace flowar
