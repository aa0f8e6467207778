// Gradients that are summed over the tokens of a batch entry, in an order that depends on sizes alone, without atomics.
#pragma once

#include <algorithm>

#include "../token_sums.h"
#include "norm.cuh"

namespace flowar {

// The gradients of one launch that are summed over tokens in several parts.
struct TokenSums {
  int64_t batch, tokens, channels;
  float* parts;  // see token_sums.h
  int count = 0;
  Output total[3] = {};  // at most: gate, branch and scale of spatial_adaln_residual

  // How the first kernel writes `out`; an entry of one part is summed right into its place.
  Gradient gradient(const Output& out) {
    if (out.token_stride != 0) return {out, false};
    const int64_t per_entry = token_parts(tokens);
    if (per_entry == 1) return {out, true};
    total[count] = out;
    float* const room = parts + count++ * batch * per_entry * channels;
    return {{room, per_entry * channels, channels, DType::kFloat32}, true};
  }
};

constexpr int kAddThreads = 128;  // small blocks, since a thread per channel makes few

static __global__ void __launch_bounds__(kAddThreads) add_parts_kernel(const TokenSums p, int64_t per_entry) {
  const int64_t channel = int64_t{blockIdx.x} * kAddThreads + threadIdx.x;
  if (channel >= p.channels) return;
  const Output& total = p.total[blockIdx.z];
  for (int64_t batch = blockIdx.y; batch < p.batch; batch += gridDim.y) {
    const float* part = p.parts + (blockIdx.z * p.batch + batch) * per_entry * p.channels + channel;
    float sum = 0;
#pragma unroll 8  // loads in flight
    for (int64_t j = 0; j < per_entry; ++j) sum += part[j * p.channels];
    static_cast<float*>(total.data)[batch * total.batch_stride + channel] = sum;
  }
}

// The second kernel.
inline cudaError_t add_parts(const TokenSums& sums, cudaStream_t stream) {
  if (sums.count == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((sums.channels + kAddThreads - 1) / kAddThreads),
                  static_cast<unsigned>(std::min<int64_t>(sums.batch, 0xffff)), sums.count);
  return launch(add_parts_kernel, grid, kAddThreads, stream, sums, token_parts(sums.tokens));
}

}  // namespace flowar
