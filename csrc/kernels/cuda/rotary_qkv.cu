// The formula and the bytes moved: ../rotary_qkv.h. One thread per group of N channels of a head, in all parts: their
// loads are in flight together, and the rotation is read once for them.
#include "../rotary_qkv.h"
#include "elementwise.cuh"

namespace flowar {
namespace {

constexpr int kMaxParts = 3;

// direction 1 rotates, -1 rotates back.
template <int N>
__device__ Vec<N> rotate(const Vec<N>& x, const Vec<N>& rotation, float direction) {
  Vec<N> out;
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    const float cosine = rotation[i], sine = direction * rotation[i + 1];
    out[i] = x[i] * cosine - x[i + 1] * sine;
    out[i + 1] = x[i + 1] * cosine + x[i] * sine;
  }
  return out;
}

// Passes every part through a rotation, but for the value; P is one of the parameter structs.
template <int N, typename P, typename Load, typename Store>
__device__ void each_part(const P& p, DType dtype, int64_t token, int64_t channel_of_head, float direction,
                          const Load& load_part, const Store& store_part) {
  const Raw<N> raw_rotation = load<N>(p.rotation, row_offset(p.rotation, 0, token) + channel_of_head);
  Raw<N> raw[kMaxParts];
#pragma unroll
  for (int i = 0; i < kMaxParts; ++i) {
    if (i < p.parts) raw[i] = load_part(i);
  }
  const Vec<N> rotation = widen(raw_rotation, p.rotation.dtype);
#pragma unroll
  for (int i = 0; i < kMaxParts; ++i) {
    if (i >= p.parts) return;
    const Vec<N> x = widen(raw[i], dtype);
    const bool value = i > 0 && i == p.parts - 1;
    store_part(i, value ? x : rotate(x, rotation, direction));
  }
}

// Channels are those of one part: heads * dim.
template <int N>
struct Forward {
  RotaryQkv p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const int64_t width = p.heads * p.dim, head = static_cast<uint32_t>(channel) / static_cast<uint32_t>(p.dim);
    const int64_t from = row_offset(p.packed, batch, token) + channel, channel_of_head = channel - head * p.dim;
    each_part<N>(
        p, p.packed.dtype, token, channel_of_head, 1.0f, [&](int i) { return load<N>(p.packed, from + i * width); },
        [&](int i, const Vec<N>& x) {
          const Heads& to = p.part[i];
          store(to.tokens, row_offset(to.tokens, batch, token) + head * to.head_stride + channel_of_head, x);
        });
  }
};

template <int N>
struct Backward {
  RotaryQkvBackward p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const int64_t width = p.heads * p.dim;
    const int64_t channel_of_head = static_cast<uint32_t>(channel) % static_cast<uint32_t>(p.dim);
    const int64_t from = row_offset(p.grad, batch, token) + channel;
    const int64_t to = row_offset(p.grad_packed, batch, token) + channel;
    each_part<N>(
        p, p.grad.dtype, token, channel_of_head, -1.0f,
        [&](int i) { return load<N>(p.grad, from + i * p.part_stride); },
        [&](int i, const Vec<N>& x) { store(p.grad_packed, to + i * width, x); });
  }
};

bool aligned_heads(const RotaryQkv& p) {
  for (int64_t i = 0; i < p.parts; ++i) {
    const Heads& part = p.part[i];
    if (!aligned(part.tokens) || part.head_stride * element_size(part.tokens.dtype) % 16 != 0) return false;
  }
  return true;
}

bool fits_index(int64_t width) { return width <= std::numeric_limits<uint32_t>::max(); }

}  // namespace

cudaError_t rotary_qkv_cuda(const RotaryQkv& p, int64_t rows, cudaStream_t stream) {
  const int64_t width = p.heads * p.dim;
  if (!fits_index(width)) return cudaErrorInvalidValue;
  return vectorizable(p.dim, p.packed, p.rotation) && aligned_heads(p)
             ? for_each_group<kVector>(Forward<kVector>{p}, rows, p.tokens, width, stream)
             : for_each_group<2>(Forward<2>{p}, rows, p.tokens, width, stream);
}

cudaError_t rotary_qkv_backward_cuda(const RotaryQkvBackward& p, int64_t rows, cudaStream_t stream) {
  const int64_t width = p.heads * p.dim;
  if (!fits_index(width)) return cudaErrorInvalidValue;
  const bool parts_aligned = p.part_stride * element_size(p.grad.dtype) % 16 == 0;
  return vectorizable(p.dim, p.grad, p.rotation, p.grad_packed) && parts_aligned
             ? for_each_group<kVector>(Backward<kVector>{p}, rows, p.tokens, width, stream)
             : for_each_group<2>(Backward<2>{p}, rows, p.tokens, width, stream);
}

}  // namespace flowar
