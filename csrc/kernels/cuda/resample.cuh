// Separable operators on grids, shared by latent_resample and latent_pyramid. A block computes a tile of one output
// line, some positions by some channels, an output a thread: it sums grid lines into a tile of one line in shared
// memory, and that along the line, tile by tile. So grids and operators may have any size. Images are tens of kilobytes
// and grids come again for every output line: what counts is that caches serve them, not the width of a load.
#pragma once

#include <algorithm>

#include "../latent_resample.h"
#include "launch.cuh"
#include "vec.cuh"

namespace flowar {

constexpr int kTile = 256;         // outputs, and threads, of a block
constexpr int kTileChannels = 16;  // at most: 32 bytes of a 16-bit dtype, a sector
constexpr int kInFlight = 4;       // loads before their first use

// Images of `data`, [height, width, channels] with these strides; the batch stride is data's own.
struct Grid {
  Input data;
  int64_t row_stride, position_stride, channel_stride;
  int64_t channels;
};

// The outputs of the operators follow one another; each is [out_height * out_width, channels].
template <int kMost>
struct Operators {
  SeparableOperator apply[kMost];
  int64_t count;
};

// How the lines of an image are cut. 32 bits number the tiles of an image, which would else be of 2^40 elements.
struct Tiling {
  unsigned channels, positions, deep;  // of a tile; and tiles along the channels

  explicit Tiling(int64_t image_channels) : channels(1) {
    while (channels < image_channels && channels < kTileChannels) channels *= 2;
    positions = kTile / channels;
    deep = static_cast<unsigned>((image_channels + channels - 1) / channels);
  }
  __host__ __device__ unsigned across(const SeparableOperator& apply) const {
    return (static_cast<unsigned>(apply.out_width) + positions - 1) / positions;
  }
  __host__ __device__ unsigned tiles(const SeparableOperator& apply) const {
    return static_cast<unsigned>(apply.out_height) * across(apply) * deep;
  }
};

// Sum over k of weights[k] * value(k). Values of weight 0 are not looked at, as on the CPU; the operators are banded.
template <typename Value>
__device__ float weighted_sum(const float* weights, int64_t count, const Value& value) {
  float sum = 0;
  for (int64_t first = 0; first < count; first += kInFlight) {
    float weight[kInFlight], x[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) weight[k] = first + k < count ? weights[first + k] : 0;
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) x[k] = weight[k] != 0 ? value(first + k) : 0;
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) sum += weight[k] * x[k];
  }
  return sum;
}

// The tile `tile` of one operator on the grid `image`, whose outputs start at `offset` of `out`.
__device__ inline void resample_tile(const Grid& grid, const SeparableOperator& apply, const Tiling& tiling,
                                     unsigned tile, int64_t image, const Output& out, int64_t offset) {
  __shared__ float line[kTile];
  const unsigned thread = threadIdx.x, line_tiles = tiling.across(apply) * tiling.deep;
  const int64_t row = tile / line_tiles, first_channel = tile % tiling.deep * tiling.channels;
  const int64_t first = tile % line_tiles / tiling.deep * tiling.positions;
  // Adjacent threads read adjacent elements, whichever way the grid lies, and write adjacent channels.
  const bool channels_last = grid.channel_stride == 1;
  const unsigned in_channel = channels_last ? thread % tiling.channels : thread / tiling.positions;
  const unsigned in_position = channels_last ? thread / tiling.channels : thread % tiling.positions;
  const unsigned out_channel = thread % tiling.channels;
  const int64_t position = first + thread / tiling.channels;
  const bool writes = position < apply.out_width && first_channel + out_channel < grid.channels;
  const float* const rows = static_cast<const float*>(apply.rows) + row * apply.in_height;
  const float* const columns = static_cast<const float*>(apply.columns) + position * apply.in_width;

  float sum = 0;
  for (int64_t begin = 0; begin < apply.in_width; begin += tiling.positions) {
    const int64_t column = begin + in_position, channel = first_channel + in_channel;
    const int64_t at = image * grid.data.batch_stride + column * grid.position_stride + channel * grid.channel_stride;
    const bool reads = column < apply.in_width && channel < grid.channels;
    line[in_position * tiling.channels + in_channel] = weighted_sum(rows, reads ? apply.in_height : 0, [&](int64_t p) {
      return widen(load<1>(grid.data, at + p * grid.row_stride), grid.data.dtype)[0];
    });
    __syncthreads();
    const int64_t left = apply.in_width - begin, count = left < tiling.positions ? left : tiling.positions;
    sum += weighted_sum(columns + begin, writes ? count : 0,
                        [&](int64_t q) { return line[q * tiling.channels + out_channel]; });
    __syncthreads();  // from here on the line may be written again
  }
  if (!writes) return;
  const int64_t token = row * apply.out_width + position;
  store(out, offset + token * grid.channels + first_channel + out_channel, Vec<1>{{sum}});
}

// A block per tile of an image, of whichever operator.
template <int kMost>
__global__ void __launch_bounds__(kTile) resample_kernel(const Grid grid, const Operators<kMost> operators,
                                                         const Tiling tiling, const Output out, int64_t batch) {
  unsigned tile = blockIdx.x;
  int64_t tokens = 0, i = 0;
  for (; i + 1 < kMost && tile >= tiling.tiles(operators.apply[i]); ++i) {
    tile -= tiling.tiles(operators.apply[i]);
    tokens += operators.apply[i].out_height * operators.apply[i].out_width;
  }
  for (int64_t image = blockIdx.y; image < batch; image += gridDim.y) {
    resample_tile(grid, operators.apply[i], tiling, tile, image, out,
                  image * out.batch_stride + tokens * grid.channels);
  }
}

template <int kMost>
cudaError_t resample(const Grid& grid, const Operators<kMost>& operators, const Output& out, int64_t batch,
                     cudaStream_t stream) {
  if (batch * grid.channels == 0) return cudaSuccess;
  const Tiling tiling(grid.channels);
  unsigned tiles = 0;
  for (int64_t i = 0; i < operators.count; ++i) tiles += tiling.tiles(operators.apply[i]);
  if (tiles == 0) return cudaSuccess;
  const unsigned images = static_cast<unsigned>(std::min<int64_t>(batch, 0xffff));
  return launch(resample_kernel<kMost>, dim3(tiles, images), kTile, stream, grid, operators, tiling, out, batch);
}

}  // namespace flowar
