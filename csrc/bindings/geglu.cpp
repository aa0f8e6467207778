#include "../kernels/geglu.h"

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

Tensor geglu(Tensor packed) {
  const Arguments arguments("geglu");
  std::vector<int64_t> sizes = sizes_of(packed);
  Shape shape = arguments.shape("packed", packed);
  arguments.require(shape.channels % 2 == 0, "packed", packed, "an even last dimension (gate, then value)");
  Geglu p{.tokens = shape.tokens, .hidden = shape.channels / 2};
  p.packed = arguments.input("packed", packed, shape);
  sizes.back() = shape.channels = p.hidden;
  Tensor out = empty(sizes, p.packed.dtype, packed);
  p.out = contiguous_output(out, shape, p.packed.dtype);
  FLOWAR_RUN(geglu, p, packed, shape.rows(), 1, shape.channels);
  return out;
}

Tensor geglu_backward(Tensor grad, Tensor packed) {
  const Arguments arguments("geglu_backward");
  const std::vector<int64_t> sizes = sizes_of(packed);
  const Shape shape = arguments.shape("packed", packed);
  GegluBackward p{.tokens = shape.tokens, .hidden = shape.channels / 2};
  p.packed = arguments.input("packed", packed, shape);
  p.grad = arguments.input("grad", grad, {shape.batch, shape.tokens, p.hidden});
  Tensor grad_packed = empty(sizes, p.packed.dtype, packed);
  p.grad_packed = contiguous_output(grad_packed, shape, p.packed.dtype);
  FLOWAR_RUN(geglu_backward, p, packed, shape.rows(), 1, shape.channels);
  return grad_packed;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) {
  m.impl("geglu", TORCH_BOX(&geglu));
  m.impl("geglu_backward", TORCH_BOX(&geglu_backward));
}

}  // namespace flowar
