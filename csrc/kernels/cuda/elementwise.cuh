// Kernels without a reduction: one thread per group of N channels of a row. A group loads 16 bytes or more of each
// operand, which at the occupancy of these kernels is enough in flight for the full bandwidth of an HBM3e device.
#pragma once

#include <limits>

#include "launch.cuh"
#include "vec.cuh"

namespace flowar {

constexpr int kThreads = 128;  // few enough that small problems reach every multiprocessor, enough for full occupancy

// Index: 32 bits where they suffice, since a division of 64 bits takes longer than the rest of a group.
template <int N, typename Index, typename Body>
__global__ void __launch_bounds__(kThreads)
    for_each_group_kernel(const Body body, Index count, Index tokens, Index groups) {
  const Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const Index row = i / groups, batch = row / tokens;
  body(batch, row - batch * tokens, static_cast<int64_t>(i - row * groups) * N);
}

// Calls body(batch, token, first channel) for every group of every row.
template <int N, typename Body>
cudaError_t for_each_group(const Body& body, int64_t rows, int64_t tokens, int64_t channels, cudaStream_t stream) {
  const int64_t groups = channels / N, count = rows * groups, blocks = (count + kThreads - 1) / kThreads;
  if (count == 0) return cudaSuccess;
  if (blocks > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  const auto start = [&](auto kernel) {
    return launch(kernel, static_cast<unsigned>(blocks), kThreads, stream, body, count, tokens, groups);
  };
  return count <= std::numeric_limits<int32_t>::max() ? start(for_each_group_kernel<N, uint32_t, Body>)
                                                      : start(for_each_group_kernel<N, int64_t, Body>);
}

}  // namespace flowar
