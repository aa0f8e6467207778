#include "harness.h"
#include "kernels/counter_normal.h"

namespace flowar {
namespace {

int64_t pieces(int64_t count) { return (count + kNormalsPerPiece - 1) / kNormalsPerPiece; }

// Equal up to the last place of float.
void compare(int64_t count, int64_t offset) {
  const std::vector<int64_t> seeds{0, -5, int64_t{1} << 62};
  const int64_t rows = static_cast<int64_t>(seeds.size());
  Buffer out(DType::kFloat32, rows * count, offset), wanted = out;
  const auto parameters = [&](Buffer& to) {
    return CounterNormal{count, 4294967295u, seeds.data(), static_cast<float*>(to.output(0, 0).data)};
  };
  counter_normal_cpu(parameters(wanted), 0, rows * pieces(count));
  expect_launched("counter_normal", counter_normal_cuda(parameters(out), rows * pieces(count), nullptr));
  for (int64_t i = 0; i < rows * count; ++i) {
    const float value = static_cast<float>(wanted.get(i));
    const double last_place = std::nextafter(std::fabs(value), INFINITY) - std::fabs(value);
    out.expect_within("counter_normal", i, value, last_place);
  }
  out.expect_sentinels("counter_normal");
}

const Test test("counter_normal", [] {
  for (const int64_t count : {1, 2, 3, 4, 5, 7, 8, 1023, 1024, 1025, 5456}) {
    for (int64_t offset = 0; offset < 4; ++offset) compare(count, offset);
  }
});

const Test empty("counter_normal of nothing",
                 [] { expect_launched("counter_normal", counter_normal_cuda({}, 0, nullptr)); });

}  // namespace
}  // namespace flowar
