#include <limits>

#include "harness.h"
#include "kernels/quantize_rows.h"

namespace flowar {
namespace {

constexpr uint8_t kSentinel = 0x5a;

struct Quantized {
  explicit Quantized(int64_t channels) : values(kRows * channels + 8, kSentinel), scale(kRows + 1, -1) {}
  QuantizeRows parameters(const Buffer& x, int64_t channels, int64_t pad) {
    const int64_t row = channels + pad;
    return {kTokens, channels, x.input(kTokens * row, row), values.data(), scale.data()};
  }
  std::vector<uint8_t> values;
  std::vector<float> scale;
};

// Byte for byte: both round correctly.
void compare(const Buffer& x, int64_t channels, int64_t pad) {
  Quantized wanted(channels), got(channels);
  quantize_rows_cpu(wanted.parameters(x, channels, pad), 0, kRows);
  expect_launched("quantize_rows", quantize_rows_cuda(got.parameters(x, channels, pad), kRows, nullptr));
  const auto same_value = [](uint8_t a, uint8_t b) { return a == b || ((a & b & 0x7f) == 0x7f); };  // or both NaN
  const auto same_scale = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  if (std::equal(got.values.begin(), got.values.end(), wanted.values.begin(), same_value) &&
      std::equal(got.scale.begin(), got.scale.end(), wanted.scale.begin(), same_scale)) {
    return;
  }
  ++failures;
  std::printf("quantize_rows: not the bytes of the CPU\n");
}

void compare_sample(const Sample& s, int64_t pad) {
  compare(Buffer::random(s.dtype(0), kRows * (s.channels + pad), s.offset, 1), s.channels, pad);
}

const Test test("quantize_rows", [] {
  for_each_sample([](const Sample& sample) { compare_sample(sample, 0); });
  for_each_sample([](const Sample& sample) { compare_sample(sample, 8); });
});

const Test extremes("quantize_rows of zeros, of the smallest and the largest, of what is not finite", [] {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double values[kRows] = {0, 1e-45, 1e-38, 3e38, kInfinity, std::numeric_limits<double>::quiet_NaN()};
  for (const int64_t channels : {16, 17}) {
    Buffer x = Buffer::random(DType::kFloat32, kRows * channels, 0, 1);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < (row < 3 ? channels : 1); ++i) x.set(row * channels + i, values[row]);
    }
    compare(x, channels, 0);
  }
});

const Test empty("quantize_rows of nothing",
                 [] { expect_launched("quantize_rows", quantize_rows_cuda({}, 0, nullptr)); });

}  // namespace
}  // namespace flowar
