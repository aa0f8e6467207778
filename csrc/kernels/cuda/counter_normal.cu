// The formula and the bytes moved: ../counter_normal.h. One thread per block of Philox, which makes four numbers. In
// double, as on the CPU: the numbers are then the same up to float's last place. Where doubles are slow they cost
// little still, since noise is made once per image and is small beside everything that is done with it.
#include "../counter_normal.h"
#include "../philox.h"
#include "elementwise.cuh"

namespace flowar {
namespace {

constexpr int kWords = 4;

__device__ double uniform(uint32_t word) { return (word + 0.5) * 0x1p-32; }

__device__ float2 normal_pair(uint32_t first, uint32_t second) {
  const double radius = sqrt(-2 * log(uniform(first)));
  double sine, cosine;
  sincospi(2 * uniform(second), &sine, &cosine);
  return {static_cast<float>(radius * cosine), static_cast<float>(radius * sine)};
}

// A row is a seed; its channels are padded to whole blocks.
struct Normals {
  CounterNormal p;
  bool whole;  // every block of every row is complete and starts on 16 bytes

  __device__ void operator()(int64_t seed, int64_t, int64_t index) const {
    const PhiloxBlock block =
        philox(static_cast<uint32_t>(index / kWords), p.stream, static_cast<uint64_t>(p.seeds[seed]));
    const float2 low = normal_pair(block.word0, block.word1), high = normal_pair(block.word2, block.word3);
    float* out = p.out + seed * p.count + index;
    if (whole) {
      *reinterpret_cast<float4*>(out) = {low.x, low.y, high.x, high.y};
    } else {
      const float normals[kWords] = {low.x, low.y, high.x, high.y};
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        if (index + i < p.count) out[i] = normals[i];
      }
    }
  }
};

}  // namespace

cudaError_t counter_normal_cuda(const CounterNormal& p, int64_t pieces, cudaStream_t stream) {
  if (pieces == 0) return cudaSuccess;
  const int64_t seeds = pieces / ((p.count + kNormalsPerPiece - 1) / kNormalsPerPiece);
  const bool whole = p.count % kWords == 0 && reinterpret_cast<uintptr_t>(p.out) % 16 == 0;
  const int64_t padded = (p.count + kWords - 1) / kWords * kWords;
  return for_each_group<kWords>(Normals{p, whole}, seeds, 1, padded, stream);
}

}  // namespace flowar
