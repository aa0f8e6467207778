#include "../quantize_rows.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "quantize_rows.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(quantize_rows_cpu, QuantizeRows)
#else

namespace flowar::FLOWAR_ISA {

// Magnitudes are compared as integers, in whose order infinity and then NaN come last.
static uint32_t largest_magnitude(const float* x, int64_t count, uint32_t largest) {
#  pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = bits_as<uint32_t>(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

static void quantize_rows_cpu(const QuantizeRows& p, int64_t begin, int64_t end) {
  const Scratch<float> scratch(1, p.channels);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    const float* x = read(p.x, row, 0, p.channels, scratch[0]);
    const float part = bits_as<float>(largest_magnitude(x, p.channels, 0)) * kShareOfLargest;
    const float scale = part < kSmallestScale ? kSmallestScale : part, inverse = 1 / scale;
    p.scale[row.index] = scale;
    uint8_t* values = p.values + row.index * p.channels;
#  pragma omp simd
    for (int64_t i = 0; i < p.channels; ++i) values[i] = narrow_e4m3(x[i] * inverse);
  }
}

}  // namespace flowar::FLOWAR_ISA
#endif
