#include "harness.h"
#include "kernels/geglu.h"

namespace flowar {
namespace {

// `pad` elements between the rows of every tensor.
void compare(const Sample& s, int64_t pad) {
  const int64_t h = s.channels, narrow = h + pad, wide = 2 * h + pad;
  const Buffer packed = Buffer::random(s.dtype(0), kRows * wide, s.offset, 1);
  const Buffer grad = Buffer::random(s.dtype(1), kRows * narrow, s.offset, 2);
  const Input packed_view = packed.input(kTokens * wide, wide), grad_view = grad.input(kTokens * narrow, narrow);
  const auto forward = [&](Buffer& out) {
    return Geglu{kTokens, h, packed_view, out.output(kTokens * narrow, narrow)};
  };
  const auto backward = [&](Buffer& out) {
    return GegluBackward{kTokens, h, grad_view, packed_view, out.output(kTokens * wide, wide)};
  };
  Buffer out(s.dtype(2), kRows * narrow, s.offset), grad_packed(s.dtype(2), kRows * wide, s.offset);
  Buffer wanted = out, wanted_grad = grad_packed;
  geglu_cpu(forward(wanted), 0, kRows);
  geglu_backward_cpu(backward(wanted_grad), 0, kRows);
  expect_launched("geglu", geglu_cuda(forward(out), kRows, nullptr));
  expect_launched("geglu_backward", geglu_backward_cuda(backward(grad_packed), kRows, nullptr));
  out.expect_all("geglu", wanted);
  grad_packed.expect_all("geglu_backward", wanted_grad);
}

const Test test("geglu", [] {
  for_each_sample([](const Sample& sample) { compare(sample, 0); });
  for_each_sample([](const Sample& sample) { compare(sample, 8); });
});

const Test empty("geglu of nothing", [] {
  expect_launched("geglu", geglu_cuda({}, 0, nullptr));
  expect_launched("geglu_backward", geglu_backward_cuda({}, 0, nullptr));
});

}  // namespace
}  // namespace flowar
