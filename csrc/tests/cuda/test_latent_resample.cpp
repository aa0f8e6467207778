#include "kernels/latent_resample.h"

#include <limits>

#include "resample_case.h"

namespace flowar {
namespace {

// What has no weight is not a number.
void compare(const Sample& s, const Operator& op) {
  const SeparableOperator apply = op.apply();
  const int64_t c = s.channels, line = apply.in_width * c, image = apply.in_height * line, stride = image + 5;
  Buffer grid = Buffer::random(s.dtype(0), kBatch * stride, s.offset, 3);
  for (int64_t i = 0; apply.in_height > 1 && i < line; ++i) grid.set(line + i, std::numeric_limits<float>::quiet_NaN());
  Buffer out(s.dtype(1), kBatch * op.out_tokens() * c, s.offset), wanted = out;
  const auto params = [&](Buffer& to) {
    return LatentResample{c, apply, grid.input(stride, c), to.output(op.out_tokens() * c, c)};
  };
  latent_resample_cpu(params(wanted), 0, kBatch);
  expect_launched("latent_resample", latent_resample_cuda(params(out), kBatch, nullptr));
  out.expect_all("latent_resample", wanted, 8);
}

const Test small("latent_resample", [] {
  const Operator op(3, 4, 2, 5);
  int mixture = 0;
  for (const int64_t channels : {1, 2, 3, 8, 17}) {
    for (const int64_t offset : {0, 1, 3}) compare({channels, offset, mixture++}, op);
  }
});

// One line of output and several tiles of it; several of input; as many as positions; a single token.
const Test tiles("latent_resample in tiles", [] {
  compare({16, 0, 0}, Operator(2, 3, 1, 33));
  compare({16, 0, 1}, Operator(5, 35, 1, 2));
  compare({40, 0, 2}, Operator(16, 16, 2, 16));
  compare({4, 0, 3}, Operator(1, 1, 2, 2));
});

const Test empty("latent_resample of nothing", [] {
  LatentResample p{};
  expect_launched("latent_resample", latent_resample_cuda(p, 0, nullptr));
  expect_launched("latent_resample", latent_resample_cuda(p, 2, nullptr));
  p.channels = 4;
  expect_launched("latent_resample", latent_resample_cuda(p, 2, nullptr));
});

}  // namespace
}  // namespace flowar
