// Groups of N adjacent elements of any dtype, moved 16 bytes at a time and seen as float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "../tensor.h"

namespace flowar {

constexpr int kVector = 8;  // 16 bytes of a 16-bit dtype, 32 of float

__host__ __device__ inline int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Kernels are compiled for tensors that are all bfloat16, all float16, and, called kFloat32, for any mixture: of 16
// bits nothing is left to be asked at run time, and results may be computed as exactly as they are rounded.
template <DType kCommon, typename Void>
__device__ Tokens<Void> of_dtype(Tokens<Void> x) {
  if (kCommon != DType::kFloat32) x.dtype = kCommon;
  return x;
}

// The dtype of 16 bits that all views have, or else kFloat32. A view that is null has any.
template <typename View, typename... Views>
DType common_dtype(const View& first, const Views&... views) {
  return ((views.data == nullptr || views.dtype == first.dtype) && ...) ? first.dtype : DType::kFloat32;
}

// Calls launch(dtype), which may be a template's argument: dtype().
template <typename Launch>
cudaError_t for_dtype(DType common, const Launch& launch) {
  switch (common) {
    case DType::kBFloat16:
      return launch(std::integral_constant<DType, DType::kBFloat16>());
    case DType::kFloat16:
      return launch(std::integral_constant<DType, DType::kFloat16>());
    default:
      return launch(std::integral_constant<DType, DType::kFloat32>());
  }
}

// The bytes of a group as they lie in memory. Loading and widening are two steps, so that a kernel can have the loads
// of all its operands in flight before it needs the first.
template <int N>
struct Raw;

template <>
struct Raw<kVector> {
  uint4 half[2];  // the second for float only
};

template <>
struct Raw<1> {
  uint32_t bits;
};

// Two elements that may lie at any offset: a channel pair.
template <>
struct Raw<2> {
  Raw<1> one[2];
};

template <int N>
__device__ Raw<N> load(const Input& x, int64_t offset);

template <>
__device__ inline Raw<kVector> load<kVector>(const Input& x, int64_t offset) {
  const char* at = static_cast<const char*>(x.data) + offset * element_size(x.dtype);
  Raw<kVector> raw;
  raw.half[0] = *reinterpret_cast<const uint4*>(at);
  if (x.dtype == DType::kFloat32) raw.half[1] = *reinterpret_cast<const uint4*>(at + 16);
  return raw;
}

template <>
__device__ inline Raw<1> load<1>(const Input& x, int64_t offset) {
  if (x.dtype == DType::kFloat32) return {static_cast<const uint32_t*>(x.data)[offset]};
  return {static_cast<const uint16_t*>(x.data)[offset]};
}

template <>
__device__ inline Raw<2> load<2>(const Input& x, int64_t offset) {
  return {{load<1>(x, offset), load<1>(x, offset + 1)}};
}

template <int N>
struct Vec {
  float value[N];
  __device__ float& operator[](int i) { return value[i]; }
  __device__ float operator[](int i) const { return value[i]; }
};

__device__ inline float2 widen_pair(uint32_t bits, DType dtype) {
  if (dtype == DType::kBFloat16) return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

__device__ inline uint32_t narrow_pair(float low, float high, DType dtype) {
  if (dtype == DType::kBFloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ inline Vec<kVector> widen(const Raw<kVector>& raw, DType dtype) {
  Vec<kVector> v;
  const uint32_t words[8] = {raw.half[0].x, raw.half[0].y, raw.half[0].z, raw.half[0].w,
                             raw.half[1].x, raw.half[1].y, raw.half[1].z, raw.half[1].w};
  if (dtype == DType::kFloat32) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = __uint_as_float(words[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kVector / 2; ++i) {
      const float2 pair = widen_pair(words[i], dtype);
      v[2 * i] = pair.x;
      v[2 * i + 1] = pair.y;
    }
  }
  return v;
}

__device__ inline Vec<1> widen(const Raw<1>& raw, DType dtype) {
  return {{dtype == DType::kFloat32 ? __uint_as_float(raw.bits) : widen_pair(raw.bits, dtype).x}};
}

__device__ inline Vec<2> widen(const Raw<2>& raw, DType dtype) {
  return {{widen(raw.one[0], dtype)[0], widen(raw.one[1], dtype)[0]}};
}

__device__ inline void store(const Output& x, int64_t offset, const Vec<kVector>& v) {
  uint32_t words[kVector];
  char* at = static_cast<char*>(x.data) + offset * element_size(x.dtype);
  if (x.dtype == DType::kFloat32) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) words[i] = __float_as_uint(v[i]);
    *reinterpret_cast<uint4*>(at + 16) = make_uint4(words[4], words[5], words[6], words[7]);
  } else {
#pragma unroll
    for (int i = 0; i < kVector / 2; ++i) words[i] = narrow_pair(v[2 * i], v[2 * i + 1], x.dtype);
  }
  *reinterpret_cast<uint4*>(at) = make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ inline void store(const Output& x, int64_t offset, const Vec<1>& v) {
  if (x.dtype == DType::kFloat32) {
    static_cast<float*>(x.data)[offset] = v[0];
  } else {
    static_cast<uint16_t*>(x.data)[offset] = static_cast<uint16_t>(narrow_pair(v[0], 0, x.dtype));
  }
}

__device__ inline void store(const Output& x, int64_t offset, const Vec<2>& v) {
  store(x, offset, Vec<1>{{v[0]}});
  store(x, offset + 1, Vec<1>{{v[1]}});
}

template <typename Void>
__device__ int64_t row_offset(const Tokens<Void>& x, int64_t batch, int64_t token) {
  return batch * x.batch_stride + token * x.token_stride;
}

// Whether every group of kVector channels of every row of x starts on 16 bytes.
template <typename Void>
bool aligned(const Tokens<Void>& x) {
  const auto multiple = [&](int64_t elements) { return elements * element_size(x.dtype) % 16 == 0; };
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && multiple(x.batch_stride) && multiple(x.token_stride);
}

template <typename... Views>
bool vectorizable(int64_t channels, const Views&... views) {
  return channels % kVector == 0 && (aligned(views) && ...);
}

}  // namespace flowar
