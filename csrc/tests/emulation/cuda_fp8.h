// Stand-in for CUDA's header of this name: pairs of float8_e4m3fn, rounded to nearest even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda_runtime.h"

using __nv_fp8x2_storage_t = uint16_t;
enum __nv_saturation_t { __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };

namespace emulation {

// What is too large becomes the largest, 448.
inline uint8_t e4m3_bits(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  const double magnitude = std::min(std::fabs(static_cast<double>(value)), 448.0);
  const int exponent = std::max(magnitude > 0 ? std::ilogb(magnitude) : -6, -6);
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  return static_cast<uint8_t>(sign | (((exponent + 6) << 3) + units));
}

}  // namespace emulation

inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 pair, __nv_saturation_t, __nv_fp8_interpretation_t) {
  return static_cast<uint16_t>(emulation::e4m3_bits(pair.x) | emulation::e4m3_bits(pair.y) << 8);
}
