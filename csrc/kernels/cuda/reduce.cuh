// Sums over the threads of a block, and over the tokens of a batch entry. Both add in an order that depends on sizes
// alone, without atomics: results repeat bit for bit.
#pragma once

#include <algorithm>

#include "../token_sums.h"
#include "launch.cuh"
#include "vec.cuh"

namespace flowar {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 512;  // of a block: leaves a thread up to 128 registers

inline unsigned whole_warps(int64_t threads) { return static_cast<unsigned>((threads + kWarp - 1) / kWarp * kWarp); }

// More blocks than any device runs at once; kernels stride over what is left.
inline unsigned block_count(int64_t blocks) { return static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 30)); }

template <int K>
struct Sums {
  float value[K];
};

// Adds up K values of all threads of a block of whole warps; every thread gets the sums.
template <int K>
__device__ void block_sum(Sums<K>& sums) {
  __shared__ float of_warp[K][kMaxThreads / kWarp];
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < K; ++k) sums.value[k] += __shfl_xor_sync(0xffffffffu, sums.value[k], distance);
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (lane == 0) of_warp[k][warp] = sums.value[k];
    sums.value[k] = 0;
  }
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) {
#pragma unroll
    for (int k = 0; k < K; ++k) sums.value[k] += of_warp[k][w];
  }
  __syncthreads();  // from here on of_warp may be written again
}

// A gradient as a backward kernel writes it: a row per token, or, where it is summed over tokens, a row per block.
struct Gradient {
  Output out;
  bool summed;
};

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
  const int64_t count = p.count * p.batch * p.channels;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kAddThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kAddThreads + threadIdx.x; i < count; i += step) {
    const int64_t entry = i / p.channels, channel = i % p.channels;
    const float* part = p.parts + entry * per_entry * p.channels + channel;
    float sum = 0;
#pragma unroll 8  // loads in flight
    for (int64_t j = 0; j < per_entry; ++j) sum += part[j * p.channels];
    const Output& total = p.total[entry / p.batch];
    static_cast<float*>(total.data)[entry % p.batch * total.batch_stride + channel] = sum;
  }
}

// The second kernel.
inline cudaError_t add_parts(const TokenSums& sums, cudaStream_t stream) {
  if (sums.count == 0) return cudaSuccess;
  const int64_t channels = sums.count * sums.batch * sums.channels;
  return launch(add_parts_kernel, block_count((channels + kAddThreads - 1) / kAddThreads), kAddThreads, stream, sums,
                token_parts(sums.tokens));
}

}  // namespace flowar
