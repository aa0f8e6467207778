// Stand-in for CUDA's header of this name: pairs of float16, rounded to nearest even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda_runtime.h"

struct alignas(4) __half2 {
  uint16_t x, y;
};

namespace emulation {

inline uint16_t float16_bits(float value) {
  if (std::isnan(value)) return 0x7fff;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude >= 65520) return sign | 0x7c00;  // halfway to the number after the largest
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + units));
}

inline float float16_value(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
  const float infinite = mantissa ? NAN : INFINITY;
  const float finite = exponent ? std::ldexp(1024.0f + mantissa, exponent - 25) : std::ldexp(float(mantissa), -24);
  return std::copysign(exponent == 0x1f ? infinite : finite, bits & 0x8000 ? -1.0f : 1.0f);
}

}  // namespace emulation

inline float2 __half22float2(__half2 pair) {
  return {emulation::float16_value(pair.x), emulation::float16_value(pair.y)};
}
inline __half2 __floats2half2_rn(float x, float y) { return {emulation::float16_bits(x), emulation::float16_bits(y)}; }
