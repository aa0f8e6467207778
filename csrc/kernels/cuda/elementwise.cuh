// Kernels without a reduction: one thread per group of N channels of a row.
#pragma once

#include <algorithm>

#include "launch.cuh"
#include "vec.cuh"

namespace flowar {

constexpr int kThreads = 256;  // 8 warps: full occupancy on every architecture at up to 32 registers a thread

template <int N, typename Body>
__global__ void __launch_bounds__(kThreads)
    for_each_group_kernel(const Body body, int64_t rows, int64_t tokens, int64_t groups) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < rows * groups; i += step) {
    const int64_t row = i / groups;
    body(row / tokens, row % tokens, (i % groups) * N);
  }
}

template <int N, typename Body>
cudaError_t for_each_group(const Body& body, int64_t rows, int64_t tokens, int64_t channels, cudaStream_t stream) {
  const int64_t groups = channels / N;
  if (rows * groups == 0) return cudaSuccess;
  const int64_t blocks = std::min<int64_t>((rows * groups + kThreads - 1) / kThreads, int64_t{1} << 30);
  return launch(for_each_group_kernel<N, Body>, static_cast<unsigned>(blocks), kThreads, stream, body, rows, tokens,
                groups);
}

}  // namespace flowar
