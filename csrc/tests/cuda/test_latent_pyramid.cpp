#include "kernels/latent_pyramid.h"

#include "resample_case.h"

namespace flowar {
namespace {

constexpr int64_t kHeight = 4, kWidth = 5;

// Planes and images lie apart, as in a slice of a larger tensor.
void compare(const Sample& s, const std::vector<Operator>& operators) {
  const int64_t c = s.channels, plane = kHeight * kWidth + 3, stride = c * plane + 2;
  const Buffer latents = Buffer::random(s.dtype(0), kBatch * stride, s.offset, 3);
  int64_t tokens = 0;
  LatentPyramid p{};
  for (const Operator& op : operators) {
    p.apply[p.operators++] = op.apply();
    tokens += op.out_tokens();
  }
  p.channels = c;
  p.height = kHeight;
  p.width = kWidth;
  p.latents = latents.input(stride, plane);
  Buffer out(s.dtype(1), kBatch * tokens * c, s.offset), wanted = out;
  p.out = wanted.output(tokens * c, c);
  latent_pyramid_cpu(p, 0, kBatch);
  p.out = out.output(tokens * c, c);
  expect_launched("latent_pyramid", latent_pyramid_cuda(p, kBatch, nullptr));
  out.expect_all("latent_pyramid", wanted, 8);
}

const Test mixtures("latent_pyramid", [] {
  const std::vector<Operator> operators{{kHeight, kWidth, 1, 1}, {kHeight, kWidth, 2, 3}, {kHeight, kWidth, 1, 5}};
  int mixture = 0;
  for (const int64_t channels : {1, 2, 3, 16, 17}) {
    for (const int64_t offset : {0, 1, 3}) compare({channels, offset, mixture++}, operators);
  }
});

const Test sizes("latent_pyramid of many operators, of empty ones, of lines in tiles", [] {
  compare({2, 0, 4}, std::vector<Operator>(kMaxOperators, Operator(kHeight, kWidth, 1, 1)));
  compare({3, 0, 0}, {{kHeight, kWidth, 0, 2}, {kHeight, kWidth, 1, 2}, {kHeight, kWidth, 2, 0}});
  compare({16, 0, 0}, {{kHeight, kWidth, 1, 20}, {kHeight, kWidth, 1, 2}});
});

const Test empty("latent_pyramid of nothing", [] {
  LatentPyramid p{};
  expect_launched("latent_pyramid", latent_pyramid_cuda(p, 0, nullptr));
  p.channels = 4;
  expect_launched("latent_pyramid", latent_pyramid_cuda(p, 2, nullptr));
});

}  // namespace
}  // namespace flowar
