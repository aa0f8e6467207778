#include "../kernels/rotary_qkv.h"

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

// The rotation [tokens, dim / 2, 2] as a view [1, tokens, dim].
Input rotation_input(const Arguments& arguments, Tensor& rotation, int64_t tokens, int64_t dim) {
  arguments.require_backend("rotation", rotation);
  const bool fits =
      rotation.dim() == 3 && rotation.size(0) == tokens && rotation.size(1) == dim / 2 && rotation.size(2) == 2;
  arguments.require(fits, "rotation", rotation,
                    "shape [tokens, dim / 2, 2] = ", std::vector<int64_t>{tokens, dim / 2, 2});
  if (!rotation.is_contiguous()) rotation = torch::stable::contiguous(rotation);
  return {rotation.data_ptr(), 0, dim, arguments.dtype("rotation", rotation)};
}

// Checks packed [batch, tokens, parts * heads * dim] and rotation, and fills all but the places of the parts.
RotaryQkv parameters(const Arguments& arguments, Tensor& packed, Tensor& rotation, int64_t heads, int64_t parts) {
  arguments.require(packed.dim() == 3, "packed", packed, "three dimensions [batch, tokens, parts * heads * dim]");
  arguments.require(parts >= 1 && parts <= 3, "parts", parts, "1, 2 or 3");
  arguments.require(heads >= 1, "heads", heads, "at least 1");
  const int64_t tokens = packed.size(1), dim = packed.size(2) / (parts * heads);
  arguments.require(packed.size(2) == parts * heads * dim && dim % 2 == 0, "packed", packed,
                    "a last dimension of parts * heads * dim = ", parts, " * ", heads, " * an even number");
  RotaryQkv p{.tokens = tokens, .heads = heads, .dim = dim, .parts = parts};
  p.packed = arguments.input("packed", packed, {packed.size(0), tokens, packed.size(2)});
  p.rotation = rotation_input(arguments, rotation, tokens, dim);
  return p;
}

// Where a tensor [batch, tokens, heads, dim] with adjacent channels takes a part, from its token `first_token` on.
Heads place(const Tensor& x, DType dtype, int64_t first_token) {
  const int64_t start = first_token * x.stride(1) * static_cast<int64_t>(x.element_size());
  return {{static_cast<char*>(x.data_ptr()) + start, x.stride(0), x.stride(1), dtype}, x.stride(2)};
}

// Part i of a contiguous tensor [parts, batch, tokens, heads, dim].
Heads part_of(const Tensor& x, DType dtype, int64_t i) {
  const int64_t start = i * x.stride(0) * static_cast<int64_t>(x.element_size());
  return {{static_cast<char*>(x.data_ptr()) + start, x.stride(1), x.stride(2), dtype}, x.stride(3)};
}

Tensor rotary_qkv(Tensor packed, Tensor rotation, int64_t heads, int64_t parts) {
  RotaryQkv p = parameters(Arguments("rotary_qkv"), packed, rotation, heads, parts);
  const int64_t batch = packed.size(0);
  Tensor out = empty({parts, batch, p.tokens, heads, p.dim}, p.packed.dtype, packed);
  for (int64_t i = 0; i < parts; ++i) p.part[i] = part_of(out, p.packed.dtype, i);
  FLOWAR_RUN(rotary_qkv, p, packed, batch * p.tokens, 1, packed.size(2));
  return out;
}

// The place of a part in a cache [batch, tokens, heads, dim], from token `offset` on.
Heads cache_place(const Arguments& arguments, const char* name, const Tensor& cache, const Tensor& packed,
                  const RotaryQkv& p, int64_t offset) {
  arguments.require_backend(name, cache);
  const bool fits = cache.dim() == 4 && cache.size(0) == packed.size(0) && cache.size(1) >= offset + p.tokens &&
                    cache.size(2) == p.heads && cache.size(3) == p.dim;
  arguments.require(fits, name, cache, "shape [", packed.size(0), ", at least ", offset + p.tokens, ", ", p.heads, ", ",
                    p.dim, "]");
  arguments.require(p.dim <= 1 || cache.stride(3) == 1, name, cache.stride(3), "a last dimension of stride 1");
  return place(cache, arguments.dtype(name, cache), offset);
}

Tensor rotary_qkv_cache(Tensor packed, Tensor rotation, int64_t heads, Tensor k_cache, Tensor v_cache, int64_t offset) {
  const Arguments arguments("rotary_qkv_cache");
  RotaryQkv p = parameters(arguments, packed, rotation, heads, 3);
  arguments.require(offset >= 0, "offset", offset, "at least 0");
  const int64_t batch = packed.size(0);
  Tensor q = empty({batch, p.tokens, heads, p.dim}, p.packed.dtype, packed);
  p.part[0] = place(q, p.packed.dtype, 0);
  p.part[1] = cache_place(arguments, "k_cache", k_cache, packed, p, offset);
  p.part[2] = cache_place(arguments, "v_cache", v_cache, packed, p, offset);
  FLOWAR_RUN(rotary_qkv, p, packed, batch * p.tokens, 1, packed.size(2));
  return q;
}

Tensor rotary_qkv_backward(Tensor grad, Tensor rotation) {
  const Arguments arguments("rotary_qkv_backward");
  arguments.require(grad.dim() == 5, "grad", grad, "five dimensions [parts, batch, tokens, heads, dim]");
  const int64_t parts = grad.size(0), batch = grad.size(1), tokens = grad.size(2);
  const int64_t heads = grad.size(3), dim = grad.size(4);
  arguments.require_backend("grad", grad);
  grad = torch::stable::contiguous(grad);
  const DType dtype = arguments.dtype("grad", grad);
  const Shape shape{batch, tokens, parts * heads * dim};
  RotaryQkvBackward p{.tokens = tokens, .heads = heads, .dim = dim, .parts = parts};
  p.part_stride = batch * tokens * heads * dim;
  p.grad = {grad.data_ptr(), tokens * heads * dim, heads * dim, dtype};
  p.rotation = rotation_input(arguments, rotation, tokens, dim);
  Tensor grad_packed = empty({batch, tokens, parts * heads * dim}, dtype, grad);
  p.grad_packed = contiguous_output(grad_packed, shape, dtype);
  FLOWAR_RUN(rotary_qkv_backward, p, grad, shape.rows(), 1, shape.channels);
  return grad_packed;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(flowar, FLOWAR_BACKEND, m) {
  m.impl("rotary_qkv", TORCH_BOX(&rotary_qkv));
  m.impl("rotary_qkv_cache", TORCH_BOX(&rotary_qkv_cache));
  m.impl("rotary_qkv_backward", TORCH_BOX(&rotary_qkv_backward));
}

}  // namespace flowar
