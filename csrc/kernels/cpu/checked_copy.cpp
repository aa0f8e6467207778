#include "../checked_copy.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "checked_copy.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(checked_copy_cpu, CheckedCopy)
#else

namespace flowar::FLOWAR_ISA {

// What tells floats that are not finite, in every float of a word: their exponents are all ones, so that adding the
// lowest bit of an exponent to such a magnitude carries into the sign, and to no other.
struct Exponents {
  explicit Exponents(DType dtype) {
    switch (dtype) {
      case DType::kFloat64:
        magnitudes = 0x7fffffffffffffff, lowest = 0x0010000000000000;
        break;
      case DType::kFloat32:
        magnitudes = 0x7fffffff7fffffff, lowest = 0x0080000000800000;
        break;
      case DType::kBFloat16:
        magnitudes = 0x7fff7fff7fff7fff, lowest = 0x0080008000800080;
        break;
      case DType::kFloat16:
        magnitudes = 0x7fff7fff7fff7fff, lowest = 0x0400040004000400;
        break;
    }
  }
  uint64_t magnitudes, lowest;
};

struct Checked {
  uint64_t sum, carries;
};

// A whole run, copied to `to` word by word where `copies` says so. The bytes of a file begin anywhere.
template <bool copies>
static Checked check(const uint8_t* bytes, const Exponents& exponents, uint8_t* to = nullptr) {
  uint64_t sum = 0, carries = 0;
  const uint64_t magnitudes = exponents.magnitudes, lowest = exponents.lowest;
#  pragma omp simd reduction(+ : sum) reduction(| : carries)
  for (int64_t i = 0; i < kRunWords; ++i) {
    uint64_t word;
    std::memcpy(&word, bytes + i * kWordBytes, kWordBytes);
    if (copies) std::memcpy(to + i * kWordBytes, &word, kWordBytes);
    sum += word;
    carries |= (word & magnitudes) + lowest;
  }
  return {sum, carries & ~magnitudes};
}

template <typename T>
static void copy_runs(const CheckedCopy& p, int64_t begin, int64_t end) {
  const int64_t run = kRunBytes / p.element_bytes, whole = p.elements / run;
  const Exponents exponents(p.source.dtype);
  const Scratch<T> scratch(1, run);
  uint64_t carries = 0;
  for (Row row(begin, end); row.index < end; row.next()) {
    const int64_t count = std::min(run, p.elements - row.index * run), size = count * p.element_bytes;
    const uint8_t* bytes = static_cast<const uint8_t*>(p.source.data) + row.index * kRunBytes;
    const bool same = p.source.dtype == p.out.dtype;
    uint8_t* to = static_cast<uint8_t*>(p.out.data) + row.index * kRunBytes;
    if (row.index < whole) {
      const Checked checked = same ? check<true>(bytes, exponents, to) : check<false>(bytes, exponents);
      p.sums[row.index] = checked.sum;
      carries |= checked.carries;
    } else {
      uint8_t rest[kRunBytes] = {};
      std::memcpy(rest, bytes, size);
      std::memcpy(p.sums + whole, rest, (size + kWordBytes - 1) / kWordBytes * kWordBytes);
      carries |= check<false>(rest, exponents).carries;
      if (same) std::memcpy(to, bytes, size);
    }
    if (!same) {
      const T* x = read(p.source, row, 0, count, target(p.out, row, 0, scratch[0]));
      write(p.out, row, 0, count, x);
    }
  }
  if (carries) *p.broken = true;
}

static void checked_copy_cpu(const CheckedCopy& p, int64_t begin, int64_t end) {
  const bool wide = p.source.dtype == DType::kFloat64 || p.out.dtype == DType::kFloat64;
  wide ? copy_runs<double>(p, begin, end) : copy_runs<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
