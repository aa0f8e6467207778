#include "../kernels/quantize_rows.h"

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

std::tuple<Tensor, Tensor> quantize_rows(Tensor x) {
  const Arguments arguments("quantize_rows");
  const Shape shape = arguments.shape("x", x);
  arguments.require(shape.channels > 0, "x", x, "a last dimension that is not empty");
  QuantizeRows p{.tokens = shape.tokens, .channels = shape.channels};
  p.x = arguments.input("x", x, shape);
  Tensor values = empty({shape.rows(), shape.channels}, ScalarType::Float8_e4m3fn, x);
  Tensor scale = empty({shape.rows(), 1}, DType::kFloat32, x);
  p.values = static_cast<uint8_t*>(values.data_ptr());
  p.scale = static_cast<float*>(scale.data_ptr());
  FLOWAR_RUN(quantize_rows, p, x, shape.rows(), 1, shape.channels);
  return {values, scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) { m.impl("quantize_rows", TORCH_BOX(&quantize_rows)); }

}  // namespace flowar
