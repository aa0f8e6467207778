#include "harness.h"
#include "kernels/velocity_step.h"

namespace flowar {
namespace {

// `pad` elements between the rows of state and velocity.
void compare(const Sample& s, bool guided, int64_t copies, int64_t pad) {
  const int64_t c = s.channels, row = c + pad, half = kRows * row;
  const Buffer velocity = Buffer::random(s.dtype(0), 2 * half, s.offset, 2);
  const auto parameters = [&](Buffer& state, Buffer& next) {
    VelocityStep p{kTokens, c,      -0.25, 2.5, state.output(kTokens * row, row), velocity.input(kTokens * row, row),
                   {},      copies, {}};
    if (guided) p.unconditional = velocity.input(kTokens * row, row, half);
    for (int64_t i = 0; i < copies; ++i) p.next[i] = next.output(kTokens * c, c, i * kRows * c);
    return p;
  };
  Buffer state = Buffer::random(DType::kFloat32, half, s.offset, 1, Buffer::kSentinels), wanted = state;
  Buffer next(s.dtype(1), copies * kRows * c, s.offset), wanted_next = next;
  velocity_step_cpu(parameters(wanted, wanted_next), 0, kRows);
  expect_launched("velocity_step", velocity_step_cuda(parameters(state, next), kRows, nullptr));
  state.expect_all("velocity_step", wanted, 4);
  next.expect_all("velocity_step next", wanted_next, 4);
}

const Test test("velocity_step", [] {
  for_each_sample([](const Sample& s) { compare(s, true, 2, 0); });
  for_each_sample([](const Sample& s) { compare(s, s.mixture % 2, s.mixture % 3, 8); });
});

const Test empty("velocity_step of nothing",
                 [] { expect_launched("velocity_step", velocity_step_cuda({}, 0, nullptr)); });

}  // namespace
}  // namespace flowar
