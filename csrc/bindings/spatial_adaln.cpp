#include "../kernels/spatial_adaln.h"

#include "check.h"
#include "device.h"
#include "modulation.h"

namespace flowar {
namespace {

Tensor spatial_adaln(Tensor x, Tensor scale, Tensor shift, bool layer_norm, double eps) {
  const Arguments arguments("spatial_adaln");
  const std::vector<int64_t> sizes = sizes_of(x);
  const Shape shape = arguments.shape("x", x);
  SpatialAdaln p{.tokens = shape.tokens, .channels = shape.channels, .layer_norm = layer_norm, .eps = eps};
  p.x = arguments.input("x", x, shape);
  p.scale = arguments.input("scale", scale, shape);
  p.shift = arguments.input("shift", shift, shape);
  const DType dtype = promote({p.x.dtype, p.scale.dtype, p.shift.dtype});
  Tensor out = empty(sizes, dtype, x);
  p.out = contiguous_output(out, shape, dtype);
  FLOWAR_RUN(spatial_adaln, p, x, shape.rows(), 1, shape.channels);
  return out;
}

std::tuple<Tensor, Tensor> spatial_adaln_backward(Tensor grad, Tensor x, Tensor scale, bool layer_norm, double eps) {
  const Arguments arguments("spatial_adaln_backward");
  const std::vector<int64_t> sizes = sizes_of(x);
  const Shape shape = arguments.shape("x", x);
  SpatialAdalnBackward p{.tokens = shape.tokens, .channels = shape.channels, .layer_norm = layer_norm, .eps = eps};
  p.grad = arguments.input("grad", grad, shape);
  p.x = arguments.input("x", x, shape);
  p.scale = arguments.input("scale", scale, shape);
  Tensor grad_x = empty(sizes, p.x.dtype, x);
  p.grad_x = contiguous_output(grad_x, shape, p.x.dtype);
  Tensor grad_scale = modulation_gradient(scale, p.scale.dtype, shape, p.grad.dtype, p.grad_scale);
  const std::optional<Tensor> room = room_for_parts(shape, {p.grad_scale}, x, p.parts);
  FLOWAR_RUN(spatial_adaln_backward, p, x, shape.rows(), gradient_unit(shape, {p.grad_scale}), shape.channels);
  return {grad_x, grad_scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) {
  m.impl("spatial_adaln", TORCH_BOX(&spatial_adaln));
  m.impl("spatial_adaln_backward", TORCH_BOX(&spatial_adaln_backward));
}

}  // namespace flowar
