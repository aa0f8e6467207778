#include "../kernels/rotary_qkv.h"

#include "check.h"
#include "device.h"

namespace flowar {
namespace {

// Checks packed [batch, tokens, parts * heads * dim] and rotation, and fills all but the places of the parts.
RotaryQkv parameters(const Arguments& arguments, Tensor& packed, Tensor& rotation, int64_t heads, int64_t parts) {
  arguments.require(packed.dim() == 3, "packed", "three dimensions [batch, tokens, parts * heads * dim]", packed);
  arguments.require(parts >= 1 && parts <= 3, "parts", "1, 2 or 3", std::to_string(parts));
  arguments.require(heads >= 1, "heads", "at least 1", std::to_string(heads));
  const int64_t tokens = packed.size(1);
  const int64_t dim = packed.size(2) / (parts * heads);
  arguments.require(packed.size(2) == parts * heads * dim && dim % 2 == 0, "packed",
                    "a last dimension of parts * heads * an even number (" + std::to_string(parts) + " * " +
                        std::to_string(heads) + " * ...)",
                    packed);
  arguments.require(sizes_of(rotation) == std::vector<int64_t>{tokens, dim / 2, 2}, "rotation",
                    "shape [tokens, dim / 2, 2] = [" + std::to_string(tokens) + ", " + std::to_string(dim / 2) + ", 2]",
                    rotation);
  RotaryQkv p{.tokens = tokens, .heads = heads, .dim = dim, .parts = parts};
  p.packed = arguments.input("packed", packed, arguments.shape("packed", packed));
  rotation = torch::stable::reshape(rotation, std::vector<int64_t>{tokens, dim});
  p.rotation = arguments.input("rotation", rotation, {1, tokens, dim});
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

void check_cache(const Arguments& arguments, const char* name, const Tensor& cache, const Tensor& packed,
                 const RotaryQkv& p, int64_t offset) {
  const bool fits = cache.dim() == 4 && cache.size(0) == packed.size(0) && cache.size(2) == p.heads &&
                    cache.size(3) == p.dim && offset + p.tokens <= cache.size(1);
  arguments.require(fits, name,
                    "shape [" + std::to_string(packed.size(0)) + ", at least " + std::to_string(offset + p.tokens) +
                        ", " + std::to_string(p.heads) + ", " + std::to_string(p.dim) + "]",
                    cache);
  arguments.require(p.dim <= 1 || cache.stride(3) == 1, name, "a last dimension of stride 1",
                    "stride " + std::to_string(cache.stride(3)));
  arguments.require(on_backend(cache), name, std::string("a tensor on ") + kBackendName, "one on another device");
}

Tensor rotary_qkv_cache(Tensor packed, Tensor rotation, int64_t heads, Tensor k_cache, Tensor v_cache, int64_t offset) {
  const Arguments arguments("rotary_qkv_cache");
  RotaryQkv p = parameters(arguments, packed, rotation, heads, 3);
  arguments.require(offset >= 0, "offset", "at least 0", std::to_string(offset));
  check_cache(arguments, "k_cache", k_cache, packed, p, offset);
  check_cache(arguments, "v_cache", v_cache, packed, p, offset);
  const int64_t batch = packed.size(0);
  Tensor q = empty({batch, p.tokens, heads, p.dim}, p.packed.dtype, packed);
  p.part[0] = place(q, p.packed.dtype, 0);
  p.part[1] = place(k_cache, arguments.dtype("k_cache", k_cache), offset);
  p.part[2] = place(v_cache, arguments.dtype("v_cache", v_cache), offset);
  FLOWAR_RUN(rotary_qkv, p, packed, batch * p.tokens, 1, packed.size(2));
  return q;
}

Tensor rotary_qkv_backward(Tensor grad, Tensor rotation) {
  const Arguments arguments("rotary_qkv_backward");
  arguments.require(grad.dim() == 5, "grad", "five dimensions [parts, batch, tokens, heads, dim]", grad);
  const int64_t parts = grad.size(0), batch = grad.size(1), tokens = grad.size(2);
  const int64_t heads = grad.size(3), dim = grad.size(4);
  grad = torch::stable::contiguous(grad);
  rotation = torch::stable::reshape(rotation, std::vector<int64_t>{tokens, dim});
  const DType dtype = arguments.dtype("grad", grad);
  const Shape shape{batch, tokens, parts * heads * dim};
  RotaryQkvBackward p{.tokens = tokens, .heads = heads, .dim = dim, .parts = parts};
  p.part_stride = batch * tokens * heads * dim;
  p.grad = {grad.data_ptr(), tokens * heads * dim, heads * dim, dtype};
  p.rotation = arguments.input("rotation", rotation, {1, tokens, dim});
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
