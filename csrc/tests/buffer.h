// Tensors of the tests: any dtype, any misalignment, between sentinels.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/tensor.h"

namespace flowar {

inline int failures = 0;

// A tensor of one dtype at a chosen element offset in a larger buffer whose other elements are sentinels.
class Buffer {
 public:
  static constexpr int64_t kSentinels = 40;

  Buffer(DType dtype, int64_t count, int64_t offset, int64_t sentinels = kSentinels)
      : dtype_(dtype), count_(count), offset_(offset) {
    bytes_.assign((count + offset + sentinels) * size(), kSentinel);
  }

  // Without sentinels behind it, so that AddressSanitizer sees a kernel that reads too far.
  static Buffer random(DType dtype, int64_t count, int64_t offset, unsigned seed, int64_t sentinels = 0) {
    Buffer buffer(dtype, count, offset, sentinels);
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < count; ++i) buffer.set(i, normal(generator));
    return buffer;
  }

  void set(int64_t i, double value) {
    const float single = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &single, 4);
    switch (dtype_) {
      case DType::kFloat64:
        std::memcpy(at(i), &value, 8);
        break;
      case DType::kFloat32:
        std::memcpy(at(i), &single, 4);
        break;
      case DType::kBFloat16:
        std::memcpy(at(i), reinterpret_cast<char*>(&bits) + 2, 2);
        break;
      case DType::kFloat16: {  // normal numbers only, truncated: any half will do as an input
        const int exponent = static_cast<int>(bits >> 23 & 0xff) - 112;
        const uint16_t half =
            static_cast<uint16_t>((bits >> 16 & 0x8000) | (exponent > 0 ? exponent << 10 | (bits >> 13 & 0x3ff) : 0));
        std::memcpy(at(i), &half, 2);
      }
    }
  }

  double get(int64_t i) const {
    if (dtype_ == DType::kFloat64) return load<double>(i);
    if (dtype_ == DType::kFloat32) return load<float>(i);
    const uint16_t bits = load<uint16_t>(i);
    if (dtype_ == DType::kBFloat16) {
      const uint32_t wide = static_cast<uint32_t>(bits) << 16;
      float value;
      std::memcpy(&value, &wide, 4);
      return value;
    }
    const int exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
    const double magnitude = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    return bits & 0x8000 ? -magnitude : magnitude;
  }

  Input input(int64_t batch_stride, int64_t token_stride, int64_t from = 0) const {
    return {bytes_.data() + (offset_ + from) * size(), batch_stride, token_stride, dtype_};
  }
  Output output(int64_t batch_stride, int64_t token_stride, int64_t from = 0) {
    return {at(from), batch_stride, token_stride, dtype_};
  }

  // Within the rounding of the dtype, taken `roundings` times, of values that were computed from such of size `scale`.
  void expect(const char* what, int64_t i, double wanted, double scale = 1, double roundings = 1) const {
    const double unit = dtype_ == DType::kFloat64    ? 1e-13
                        : dtype_ == DType::kFloat32  ? 2e-6
                        : dtype_ == DType::kBFloat16 ? 4.1e-3
                                                     : 5.2e-4;
    const double small = dtype_ == DType::kFloat64 || dtype_ == DType::kFloat32 ? 1 : 1e-2;
    expect_within(what, i, wanted, roundings * unit * (std::fabs(wanted) + scale * small));
  }

  void expect_within(const char* what, int64_t i, double wanted, double tolerance) const {
    if (std::fabs(get(i) - wanted) <= tolerance) return;
    if (++failures < 20) std::printf("%s [%lld]: expected %.9g, got %.9g\n", what, (long long)i, wanted, get(i));
  }

  // Every element as in `wanted`, which was rounded itself, and the sentinels around them.
  void expect_all(const char* what, const Buffer& wanted, double scale = 1) const {
    for (int64_t i = 0; i < count_; ++i) expect(what, i, wanted.get(i), scale, 2);
    expect_sentinels(what);
  }

  void expect_sentinels(const char* what) const {
    const auto intact = [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        if (bytes_[i] != kSentinel) return false;
      return true;
    };
    if (intact(0, offset_ * size()) && intact((offset_ + count_) * size(), bytes_.size())) return;
    if (++failures < 20) std::printf("%s: wrote outside of its output\n", what);
  }

 private:
  static constexpr char kSentinel = 0x5a;
  size_t size() const { return dtype_ == DType::kFloat64 ? 8 : dtype_ == DType::kFloat32 ? 4 : 2; }
  char* at(int64_t i) { return bytes_.data() + (offset_ + i) * size(); }
  template <typename T>
  T load(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + (offset_ + i) * size(), sizeof(T));
    return value;
  }

  DType dtype_;
  int64_t count_, offset_;
  std::vector<char> bytes_;
};

}  // namespace flowar
