// Stand-in for CUDA's header of this name: as much of the language and its library as the kernels use.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>
#include <utility>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

// Aligned as on the device, so that UndefinedBehaviorSanitizer sees a misaligned access.
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(uint64_t{x} * y >> 32); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void sincospi(double x, double* sine, double* cosine) {
  *sine = std::sin(M_PI * x);
  *cosine = std::cos(M_PI * x);
}

inline void __syncthreads() { emulation::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::sync_warp(mask); }

// Lanes form groups of `width`; a source outside of the own group is the lane itself.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = emulation::kWarp) {
  const int lane = emulation::lane(), source = lane ^ lane_mask;
  return emulation::shuffle(mask, value, source / width == lane / width ? source : lane);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = emulation::kWarp) {
  const int lane = emulation::lane(), source = lane + static_cast<int>(delta);
  return emulation::shuffle(mask, value, source / width == lane / width ? source : lane);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = emulation::kWarp) {
  return emulation::shuffle(mask, value, emulation::lane() / width * width + source % width);
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->dynamicSmemBytes != 0) return cudaErrorInvalidValue;
  const std::tuple<Parameters...> converted(static_cast<Parameters>(arguments)...);
  return emulation::run(config->gridDim, config->blockDim, [&] { std::apply(kernel, converted); });
}
