// Stand-in for CUDA's header of this name: pairs of bfloat16, rounded to nearest even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

struct alignas(4) __nv_bfloat162 {
  uint16_t x, y;
};

namespace emulation {

inline uint16_t bfloat16_bits(float value) {
  if (std::isnan(value)) return 0x7fff;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace emulation

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {emulation::bfloat16_bits(x), emulation::bfloat16_bits(y)};
}
