// Kernels without a reduction: one thread per group of N channels of a row. A group loads 16 bytes or more of each
// operand, which at the occupancy of these kernels is enough in flight for the full bandwidth of an HBM3e device.
#pragma once

#include <algorithm>

#include "launch.cuh"
#include "vec.cuh"

namespace flowar {

constexpr int kThreads = 128;  // few enough that small problems reach every multiprocessor, enough for full occupancy

// The groups of a launch: x of grid and block runs over those of a row, y over tokens, z over the batch, so that no
// thread divides. Short rows share a block.
struct Groups {
  int64_t per_row;
  unsigned first_batch, first_token, end_token;

  dim3 block() const {
    const int64_t blocks = (per_row + kThreads - 1) / kThreads, width = (per_row + blocks - 1) / blocks;
    const auto x = static_cast<unsigned>((width + 7) / 8 * 8);  // whole sectors of 32 bytes
    return dim3(x, std::min(kThreads / x, end_token - first_token));
  }
  dim3 grid(unsigned batch) const {
    const dim3 threads = block();
    const unsigned x = static_cast<unsigned>((per_row + threads.x - 1) / threads.x);
    return dim3(x, (end_token - first_token + threads.y - 1) / threads.y, batch);
  }
};

template <int N, typename Body>
__global__ void __launch_bounds__(kThreads) for_each_group_kernel(const Body body, const Groups groups) {
  const int64_t group = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const unsigned token = groups.first_token + blockIdx.y * blockDim.y + threadIdx.y;
  if (group < groups.per_row && token < groups.end_token) body(groups.first_batch + blockIdx.z, token, group * N);
}

// Calls launch(begin, end) for pieces of [0, count) that are no longer than `most`, until one fails.
template <typename Launch>
cudaError_t in_pieces(int64_t count, int64_t most, const Launch& launch) {
  cudaError_t error = cudaSuccess;
  for (int64_t begin = 0; begin < count && error == cudaSuccess; begin += most) {
    error = launch(static_cast<unsigned>(begin), static_cast<unsigned>(std::min(begin + most, count)));
  }
  return error;
}

// Calls body(batch, token, first channel) for every group of every row. One launch, but for more rows than a grid has.
template <int N, typename Body>
cudaError_t for_each_group(const Body& body, int64_t rows, int64_t tokens, int64_t channels, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 0xffff, kMostRows = 0x7fffffff;  // of y and z
  if (rows * channels == 0) return cudaSuccess;
  if (rows > kMostRows) return cudaErrorInvalidConfiguration;
  return in_pieces(rows / tokens, kMostBlocks, [&](unsigned first_batch, unsigned end_batch) {
    return in_pieces(tokens, kMostBlocks, [&](unsigned first_token, unsigned end_token) {
      const Groups groups{channels / N, first_batch, first_token, end_token};
      return launch(for_each_group_kernel<N, Body>, groups.grid(end_batch - first_batch), groups.block(), stream, body,
                    groups);
    });
  });
}

// That for Body<N, dtype>{p}: groups of kVector where `vectors`, of kNarrow otherwise; `common` as of common_dtype.
template <template <int, DType> typename Body, int kNarrow = 1, typename P>
cudaError_t for_each_group(const P& p, bool vectors, DType common, int64_t rows, int64_t channels,
                           cudaStream_t stream) {
  const auto run = [&](auto width, auto dtype) {
    return for_each_group<width()>(Body<width(), dtype()>{p}, rows, p.tokens, channels, stream);
  };
  if (!vectors) {
    return run(std::integral_constant<int, kNarrow>(), std::integral_constant<DType, DType::kFloat32>());
  }
  return for_dtype(common, [&](auto dtype) { return run(std::integral_constant<int, kVector>(), dtype); });
}

}  // namespace flowar
