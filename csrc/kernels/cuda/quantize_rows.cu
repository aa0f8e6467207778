// The formula and the bytes moved: ../quantize_rows.h. A block per row (norm.cuh).
#include "../quantize_rows.h"

#include <cuda_fp8.h>

#include "norm.cuh"

namespace flowar {
namespace {

__device__ inline uint32_t e4m3_pair(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

__device__ inline void store_e4m3(uint8_t* to, const Vec<1>& v) { *to = static_cast<uint8_t>(e4m3_pair(v[0], 0)); }

__device__ inline void store_e4m3(uint8_t* to, const Vec<kVector>& v) {
  static_assert(kVector == 8);
  const auto four = [&](int i) { return e4m3_pair(v[i], v[i + 1]) | e4m3_pair(v[i + 2], v[i + 3]) << 16; };
  *reinterpret_cast<uint2*>(to) = make_uint2(four(0), four(4));
}

// Magnitudes are compared as integers, in whose order infinity and then NaN come last.
__device__ inline uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

template <typename Path>
__global__ void __launch_bounds__(Path::kThreads)
    quantize_rows_kernel(const QuantizeRows p, const Path path, const Parts rows) {
  rows.for_each([&](const Row& row, int64_t, int64_t) {
    const auto x = path.read(p.x, row);
    uint32_t largest[1] = {0};
    path.for_each([&](int64_t channel) {
      const auto group = x(channel);
#pragma unroll
      for (int i = 0; i < Path::kGroup; ++i) {
        largest[0] = larger(largest[0], __float_as_uint(group[i]) & 0x7fffffffu);
      }
    });
    block_reduce(largest, larger);
    const float part = __uint_as_float(largest[0]) * kShareOfLargest;
    const float scale = part < kSmallestScale ? kSmallestScale : part, inverse = 1 / scale;
    const int64_t index = row.batch * p.tokens + row.token;
    if (threadIdx.x == 0) p.scale[index] = scale;
    path.for_each([&](int64_t channel) {
      const auto group = x(channel);
      const auto value = each<Path::kGroup>([&](int i) { return group[i] * inverse; });
      store_e4m3(p.values + index * p.channels + channel, value);
    });
  });
}

}  // namespace

cudaError_t quantize_rows_cuda(const QuantizeRows& p, int64_t rows, cudaStream_t stream) {
  if (rows * p.channels == 0) return cudaSuccess;
  const Parts parts = parts_of(rows / p.tokens, p.tokens);
  const auto run = [&](auto path, unsigned threads) {
    return launch(quantize_rows_kernel<decltype(path)>, parts.grid(), threads, stream, p, path, parts);
  };
  return choose_path(p.channels, run, p.x);
}

}  // namespace flowar
