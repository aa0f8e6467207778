#include "../kernels/spatial_adaln_residual.h"

#include "check.h"
#include "device.h"
#include "modulation.h"

namespace flowar {
namespace {

std::tuple<Tensor, Tensor> spatial_adaln_residual(Tensor x, Tensor gate, Tensor branch, Tensor scale, Tensor shift,
                                                  bool layer_norm, double eps) {
  const Arguments arguments("spatial_adaln_residual");
  const std::vector<int64_t> sizes = sizes_of(x);
  const Shape shape = arguments.shape("x", x);
  SpatialAdalnResidual p{.tokens = shape.tokens, .channels = shape.channels, .layer_norm = layer_norm, .eps = eps};
  p.x = arguments.input("x", x, shape);
  p.gate = arguments.input("gate", gate, shape);
  p.branch = arguments.input("branch", branch, shape);
  p.scale = arguments.input("scale", scale, shape);
  p.shift = arguments.input("shift", shift, shape);
  const DType sum_dtype = promote({p.x.dtype, p.gate.dtype, p.branch.dtype});
  const DType out_dtype = promote({sum_dtype, p.scale.dtype, p.shift.dtype});
  Tensor sum = empty(sizes, sum_dtype, x);
  Tensor out = empty(sizes, out_dtype, x);
  p.sum = contiguous_output(sum, shape, sum_dtype);
  p.out = contiguous_output(out, shape, out_dtype);
  FLOWAR_RUN(spatial_adaln_residual, p, x, shape.rows(), 1, shape.channels);
  return {sum, out};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> spatial_adaln_residual_backward(Tensor grad_sum, Tensor grad_out, Tensor sum,
                                                                           Tensor gate, Tensor branch, Tensor scale,
                                                                           bool layer_norm, double eps) {
  const Arguments arguments("spatial_adaln_residual_backward");
  const std::vector<int64_t> sizes = sizes_of(sum);
  const Shape shape = arguments.shape("sum", sum);
  SpatialAdalnResidualBackward p{
      .tokens = shape.tokens, .channels = shape.channels, .layer_norm = layer_norm, .eps = eps};
  p.grad_sum = arguments.input("grad_sum", grad_sum, shape);
  p.grad_out = arguments.input("grad_out", grad_out, shape);
  p.sum = arguments.input("sum", sum, shape);
  p.gate = arguments.input("gate", gate, shape);
  p.branch = arguments.input("branch", branch, shape);
  p.scale = arguments.input("scale", scale, shape);
  const DType compute = p.grad_out.dtype;
  Tensor grad_x = empty(sizes, p.sum.dtype, sum);
  p.grad_x = contiguous_output(grad_x, shape, p.sum.dtype);
  Tensor grad_gate = modulation_gradient(gate, p.gate.dtype, shape, compute, p.grad_gate);
  Tensor grad_branch = modulation_gradient(branch, p.branch.dtype, shape, compute, p.grad_branch);
  Tensor grad_scale = modulation_gradient(scale, p.scale.dtype, shape, compute, p.grad_scale);
  const int64_t unit = gradient_unit(shape, {p.grad_gate, p.grad_branch, p.grad_scale});
  const std::optional<Tensor> room = room_for_parts(shape, {p.grad_gate, p.grad_branch, p.grad_scale}, sum, p.parts);
  FLOWAR_RUN(spatial_adaln_residual_backward, p, sum, shape.rows(), unit, shape.channels);
  return {grad_x, grad_gate, grad_branch, grad_scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) {
  m.impl("spatial_adaln_residual", TORCH_BOX(&spatial_adaln_residual));
  m.impl("spatial_adaln_residual_backward", TORCH_BOX(&spatial_adaln_residual_backward));
}

}  // namespace flowar
