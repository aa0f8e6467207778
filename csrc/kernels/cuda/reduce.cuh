// Sums over the threads of a block, in an order that depends on its size alone: results repeat bit for bit.
#pragma once

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

// Combines K values of all threads of a block of whole warps; every thread gets the results. `combine` is associative
// and commutative, and 0 changes nothing.
template <int K, typename T, typename Combine>
__device__ void block_reduce(T (&values)[K], const Combine& combine) {
  constexpr unsigned kRead = 4;  // results of warps at once: all of a row of 1024 channels. Behind the last are zeros
  alignas(16) __shared__ T of_warp[K][kMaxThreads / kWarp + kRead];
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < K; ++k) values[k] = combine(values[k], __shfl_xor_sync(0xffffffffu, values[k], distance));
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (lane == 0 || (warp == warps - 1 && lane < kRead)) of_warp[k][warp + lane] = lane == 0 ? values[k] : T(0);
    values[k] = 0;
  }
  __syncthreads();
#pragma unroll 1
  for (unsigned w = 0; w < warps; w += kRead) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      struct alignas(16) Four {
        T x, y, z, w;
      };
      const Four four = *reinterpret_cast<const Four*>(of_warp[k] + w);
      values[k] = combine(values[k], combine(combine(four.x, four.y), combine(four.z, four.w)));
    }
  }
  __syncthreads();  // from here on of_warp may be written again
}

template <int K>
__device__ void block_sum(Sums<K>& sums) {
  block_reduce(sums.value, [](float a, float b) { return a + b; });
}

}  // namespace flowar
