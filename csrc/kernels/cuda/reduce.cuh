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

template <int K>
struct Sums {
  float value[K];
};

// Adds up K values of all threads of a block of whole warps; every thread gets the sums.
template <int K>
__device__ void block_sum(Sums<K>& sums) {
  constexpr unsigned kRead = 4;  // sums of warps at once: all of a row of 1024 channels. Behind the last are zeros
  alignas(16) __shared__ float of_warp[K][kMaxThreads / kWarp + kRead];
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < K; ++k) sums.value[k] += __shfl_xor_sync(0xffffffffu, sums.value[k], distance);
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (lane == 0 || (warp == warps - 1 && lane < kRead)) of_warp[k][warp + lane] = lane == 0 ? sums.value[k] : 0;
    sums.value[k] = 0;
  }
  __syncthreads();
#pragma unroll 1
  for (unsigned w = 0; w < warps; w += kRead) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const float4 four = *reinterpret_cast<const float4*>(of_warp[k] + w);
      sums.value[k] += four.x + four.y + four.z + four.w;
    }
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
