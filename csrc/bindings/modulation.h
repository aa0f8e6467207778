// Gradients of modulation arguments (scale, gate), which may broadcast along the tokens.
#pragma once

#include <initializer_list>
#include <optional>

#include "../kernels/token_sums.h"
#include "check.h"
#include "device.h"

namespace flowar {

// Allocates the gradient of `argument`: one row per token, or, where the argument has only one token, one row per batch
// entry for the kernel to sum in, in the kernel's own precision. Python sums what broadcasts along the batch and casts
// to the argument's dtype.
inline Tensor modulation_gradient(const Tensor& argument, DType argument_dtype, const Shape& shape, DType compute,
                                  Output& view) {
  const bool summed = argument.dim() < 2 || argument.size(argument.dim() - 2) == 1;
  const DType dtype = summed ? (compute == DType::kFloat64 ? compute : DType::kFloat32) : argument_dtype;
  const Shape grad_shape{shape.batch, summed ? 1 : shape.tokens, shape.channels};
  Tensor grad = empty({grad_shape.batch, grad_shape.tokens, grad_shape.channels}, dtype, argument);
  if (shape.tokens == 0) torch::stable::zero_(grad);
  view = contiguous_output(grad, grad_shape, dtype);
  if (summed) view.token_stride = 0;
  return grad;
}

// How many adjacent rows one thread must take, so that sums over tokens stay within a thread.
inline int64_t gradient_unit(const Shape& shape, std::initializer_list<Output> gradients) {
  for (const Output& gradient : gradients) {
    if (gradient.token_stride == 0) return std::max<int64_t>(shape.tokens, 1);
  }
  return 1;
}

// The room for `parts` that token_sums.h speaks of, where there are any; it must outlive the kernel.
inline std::optional<Tensor> room_for_parts(const Shape& shape, std::initializer_list<Output> gradients,
                                            const Tensor& like, float*& parts) {
  int64_t summed = 0;
  for (const Output& gradient : gradients) summed += gradient.token_stride == 0;
  if (!kBackendSumsInParts || summed == 0 || token_parts(shape.tokens) <= 1) return std::nullopt;
  Tensor room = empty({summed, shape.batch, token_parts(shape.tokens), shape.channels}, DType::kFloat32, like);
  parts = static_cast<float*>(room.data_ptr());
  return room;
}

}  // namespace flowar
