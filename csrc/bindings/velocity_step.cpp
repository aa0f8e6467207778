#include "../kernels/velocity_step.h"

#include <optional>

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

// Batch entries from `first` on.
template <typename Void>
Tokens<Void> from_batch(Tokens<Void> x, int64_t first) {
  const int64_t bytes = x.dtype == DType::kFloat64 ? 8 : x.dtype == DType::kFloat32 ? 4 : 2;
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  x.data = static_cast<Byte*>(x.data) + first * x.batch_stride * bytes;
  return x;
}

// Where the tokens of every tensor are adjacent, a batch entry is one long row.
void merge_tokens(VelocityStep& p) {
  const auto adjacent = [&](const auto& x) { return !x.data || x.token_stride == p.channels; };
  if (adjacent(p.state) && adjacent(p.conditional) && adjacent(p.unconditional) && adjacent(p.next[0])) {
    p.channels *= p.tokens;
    p.tokens = 1;
  }
}

void velocity_step(Tensor state, Tensor velocity, double dt, double guidance_weight, std::optional<Tensor> next_input) {
  const Arguments arguments("velocity_step");
  arguments.require(state.dim() == 3, "state", state, "three dimensions [batch, tokens, channels]");
  const Shape shape{state.size(0), state.size(1), state.size(2)};
  const DType dtype = arguments.dtype("state", state);
  arguments.require(dtype == DType::kFloat32 || dtype == DType::kFloat64, "state", "a 16-bit dtype",
                    "float32 or float64");
  const auto halves = [&](const char* name, const Tensor& x) {
    const bool twice = x.dim() == 3 && x.size(0) == 2 * shape.batch && x.size(0) > 0;
    arguments.require(x.dim() == 3 && (twice || x.size(0) == shape.batch), name, x,
                      "as many batch entries as state, or twice as many");
    return twice ? 2 : 1;
  };
  VelocityStep p{.tokens = shape.tokens, .channels = shape.channels, .dt = dt, .guidance_weight = guidance_weight};
  p.state = arguments.output("state", state, shape);
  const int64_t branches = halves("velocity", velocity);
  const Shape branch_shape{branches * shape.batch, shape.tokens, shape.channels};
  p.conditional = arguments.input("velocity", velocity, branch_shape);
  if (branches == 2) p.unconditional = from_batch(p.conditional, shape.batch);
  if (next_input) {
    p.copies = halves("next_input", *next_input);
    p.next[0] = arguments.output("next_input", *next_input, {p.copies * shape.batch, shape.tokens, shape.channels});
    p.next[1] = from_batch(p.next[0], shape.batch);
  }
  merge_tokens(p);
  FLOWAR_RUN(velocity_step, p, state, shape.batch * p.tokens, 1, p.channels);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) { m.impl("velocity_step", TORCH_BOX(&velocity_step)); }

}  // namespace flowar
