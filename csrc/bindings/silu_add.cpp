#include "../kernels/silu_add.h"

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

Tensor silu_add(Tensor a, Tensor b) {
  const Arguments arguments("silu_add");
  const std::vector<int64_t> sizes = sizes_of(a);
  const Shape shape = arguments.shape("a", a);
  SiluAdd p{.tokens = shape.tokens, .channels = shape.channels};
  p.a = arguments.input("a", a, shape);
  p.b = arguments.input("b", b, shape);
  const DType dtype = promote({p.a.dtype, p.b.dtype});
  Tensor out = empty(sizes, dtype, a);
  p.out = contiguous_output(out, shape, dtype);
  FLOWAR_RUN(silu_add, p, a, shape.rows(), 1, shape.channels);
  return out;
}

Tensor silu_add_backward(Tensor grad, Tensor a, Tensor b) {
  const Arguments arguments("silu_add_backward");
  const std::vector<int64_t> sizes = sizes_of(a);
  const Shape shape = arguments.shape("a", a);
  SiluAddBackward p{.tokens = shape.tokens, .channels = shape.channels};
  p.grad = arguments.input("grad", grad, shape);
  p.a = arguments.input("a", a, shape);
  p.b = arguments.input("b", b, shape);
  Tensor grad_sum = empty(sizes, p.grad.dtype, a);
  p.grad_sum = contiguous_output(grad_sum, shape, p.grad.dtype);
  FLOWAR_RUN(silu_add_backward, p, a, shape.rows(), 1, shape.channels);
  return grad_sum;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) {
  m.impl("silu_add", TORCH_BOX(&silu_add));
  m.impl("silu_add_backward", TORCH_BOX(&silu_add_backward));
}

}  // namespace flowar
