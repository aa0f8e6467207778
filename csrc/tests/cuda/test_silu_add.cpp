#include "harness.h"
#include "kernels/silu_add.h"

namespace flowar {
namespace {

// b has a row per token, or one per batch entry.
void compare(const Sample& s, bool broadcast) {
  const int64_t c = s.channels, token_stride = broadcast ? 0 : c + 8, batch_stride = broadcast ? c : kTokens * (c + 8);
  const Buffer a = Buffer::random(s.dtype(0), kRows * c, s.offset, 1);
  const Buffer b = Buffer::random(s.dtype(1), kBatch * batch_stride, s.offset, 2);
  const Buffer grad = Buffer::random(s.dtype(2), kRows * c, s.offset, 3);
  const Input a_view = a.input(kTokens * c, c), b_view = b.input(batch_stride, token_stride);
  const auto forward = [&](Buffer& out) { return SiluAdd{kTokens, c, a_view, b_view, out.output(kTokens * c, c)}; };
  const auto backward = [&](Buffer& out) {
    return SiluAddBackward{kTokens, c, grad.input(kTokens * c, c), a_view, b_view, out.output(kTokens * c, c)};
  };
  Buffer out(s.dtype(2), kRows * c, s.offset), wanted = out, grad_sum = out, wanted_grad = out;
  silu_add_cpu(forward(wanted), 0, kRows);
  silu_add_backward_cpu(backward(wanted_grad), 0, kRows);
  expect_launched("silu_add", silu_add_cuda(forward(out), kRows, nullptr));
  expect_launched("silu_add_backward", silu_add_backward_cuda(backward(grad_sum), kRows, nullptr));
  out.expect_all("silu_add", wanted);
  grad_sum.expect_all("silu_add_backward", wanted_grad);
}

const Test test("silu_add", [] {
  for_each_sample([](const Sample& sample) { compare(sample, false); });
  for_each_sample([](const Sample& sample) { compare(sample, true); });
});

const Test empty("silu_add of nothing", [] {
  expect_launched("silu_add", silu_add_cuda({}, 0, nullptr));
  expect_launched("silu_add_backward", silu_add_backward_cuda({}, 0, nullptr));
});

}  // namespace
}  // namespace flowar
