// What a kernel knows of a tensor: where it is, how to step through it, and what its elements are.
#pragma once

#include <cstdint>

#ifdef USE_CUDA
#  include <cuda_runtime_api.h>
#endif

namespace flowar {

enum class DType : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// A [batch, tokens, channels] view whose channels are adjacent. Strides count elements; stride 0 broadcasts.
// Every tensor carries its own dtype: kernels widen what they read and round once, when they write.
template <typename Void>
struct Tokens {
  Void* data;
  int64_t batch_stride;
  int64_t token_stride;
  DType dtype;
};
using Input = Tokens<const void>;
using Output = Tokens<void>;

}  // namespace flowar
