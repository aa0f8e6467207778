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
template <int N, DType kCommon, typename P, typename Load, typename Store>
__device__ void each_part(const P& p, DType dtype, int64_t token, int64_t channel_of_head, float direction,
                          const Load& load_part, const Store& store_part) {
  Input from = p.rotation;
  if (kCommon != DType::kFloat32) from.dtype = DType::kFloat32;
  const Raw<N> raw_rotation = load<N>(from, row_offset(from, 0, token) + channel_of_head);
  Raw<N> raw[kMaxParts];
#pragma unroll
  for (int i = 0; i < kMaxParts; ++i) {
    if (i < p.parts) raw[i] = load_part(i);
  }
  const Vec<N> rotation = widen(raw_rotation, from.dtype);
#pragma unroll
  for (int i = 0; i < kMaxParts; ++i) {
    if (i >= p.parts) return;
    const Vec<N> x = widen(raw[i], dtype);
    const bool value = i > 0 && i == p.parts - 1;
    store_part(i, value ? x : rotate(x, rotation, direction));
  }
}

// The head of a channel, channel / dim by a product; see fits_product.
struct HeadOf {
  unsigned reciprocal;  // 2^32 / dim, rounded up, or one more

  explicit HeadOf(int64_t dim) : reciprocal(static_cast<unsigned>((int64_t{1} << 32) / dim + 1)) {}
  __device__ unsigned operator()(int64_t channel) const { return __umulhi(static_cast<unsigned>(channel), reciprocal); }
};

// Channels are those of one part: heads * dim. kCommon is the dtype of packed and the parts beside a rotation in
// float32.
template <int N, DType kCommon>
struct Forward {
  RotaryQkv p;
  HeadOf head_of;

  explicit Forward(const RotaryQkv& p) : p(p), head_of(p.dim) {}

  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Input packed = of_dtype<kCommon>(p.packed);
    const int64_t width = p.heads * p.dim, head = head_of(channel), channel_of_head = channel - head * p.dim;
    const int64_t from = row_offset(packed, batch, token) + channel;
    each_part<N, kCommon>(
        p, packed.dtype, token, channel_of_head, 1.0f, [&](int i) { return load<N>(packed, from + i * width); },
        [&](int i, const Vec<N>& x) {
          const Output to = of_dtype<kCommon>(p.part[i].tokens);
          store(to, row_offset(to, batch, token) + head * p.part[i].head_stride + channel_of_head, x);
        });
  }
};

template <int N, DType kCommon>
struct Backward {
  RotaryQkvBackward p;
  HeadOf head_of;

  explicit Backward(const RotaryQkvBackward& p) : p(p), head_of(p.dim) {}

  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Input grad = of_dtype<kCommon>(p.grad);
    const Output grad_packed = of_dtype<kCommon>(p.grad_packed);
    const int64_t width = p.heads * p.dim, channel_of_head = channel - head_of(channel) * p.dim;
    const int64_t from = row_offset(grad, batch, token) + channel;
    const int64_t to = row_offset(grad_packed, batch, token) + channel;
    each_part<N, kCommon>(
        p, grad.dtype, token, channel_of_head, -1.0f, [&](int i) { return load<N>(grad, from + i * p.part_stride); },
        [&](int i, const Vec<N>& x) { store(grad_packed, to + i * width, x); });
  }
};

bool aligned_heads(const RotaryQkv& p) {
  for (int64_t i = 0; i < p.parts; ++i) {
    const Heads& part = p.part[i];
    if (!aligned(part.tokens) || part.head_stride * element_size(part.tokens.dtype) % 16 != 0) return false;
  }
  return true;
}

// reciprocal * dim is at most dim above 2^32: what that adds to a channel's quotient must stay below 1 / dim.
bool fits_product(int64_t heads, int64_t dim) { return heads * dim <= (int64_t{1} << 32) / dim; }

DType common_beside(const Input& rotation, DType common) {
  return rotation.dtype == DType::kFloat32 ? common : DType::kFloat32;
}

}  // namespace

cudaError_t rotary_qkv_cuda(const RotaryQkv& p, int64_t rows, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (!fits_product(p.heads, p.dim)) return cudaErrorInvalidValue;
  const bool vectors = vectorizable(p.dim, p.packed, p.rotation) && aligned_heads(p);
  const DType common = common_dtype(p.packed, p.part[0].tokens, p.part[1].tokens, p.part[2].tokens);
  return for_each_group<Forward, 2>(p, vectors, common_beside(p.rotation, common), rows, p.heads * p.dim, stream);
}

cudaError_t rotary_qkv_backward_cuda(const RotaryQkvBackward& p, int64_t rows, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (!fits_product(p.heads, p.dim)) return cudaErrorInvalidValue;
  const bool vectors =
      vectorizable(p.dim, p.grad, p.rotation, p.grad_packed) && p.part_stride * element_size(p.grad.dtype) % 16 == 0;
  const DType common = common_beside(p.rotation, common_dtype(p.grad, p.grad_packed));
  return for_each_group<Backward, 2>(p, vectors, common, rows, p.heads * p.dim, stream);
}

}  // namespace flowar
