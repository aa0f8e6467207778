// The formula and the bytes moved: ../silu_add.h. One thread per group of N channels of a row.
#include "../silu_add.h"

#include "approximate.cuh"
#include "elementwise.cuh"

namespace flowar {
namespace {

template <DType kCommon>
__device__ float sigmoid(float x) {
  return reciprocal(1.0f + (kCommon == DType::kFloat32 ? expf(-x) : power_of_two(-1.44269504f * x)));
}

template <int N, DType kCommon>
struct Forward {
  SiluAdd p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Input from_a = of_dtype<kCommon>(p.a), from_b = of_dtype<kCommon>(p.b);
    const Raw<N> raw_a = load<N>(from_a, row_offset(from_a, batch, token) + channel);
    const Raw<N> raw_b = load<N>(from_b, row_offset(from_b, batch, token) + channel);
    const Vec<N> a = widen(raw_a, from_a.dtype), b = widen(raw_b, from_b.dtype);
    Vec<N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float sum = a[i] + b[i];
      out[i] = sum * sigmoid<kCommon>(sum);
    }
    store(of_dtype<kCommon>(p.out), row_offset(p.out, batch, token) + channel, out);
  }
};

template <int N, DType kCommon>
struct Backward {
  SiluAddBackward p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Input from_grad = of_dtype<kCommon>(p.grad), from_a = of_dtype<kCommon>(p.a), from_b = of_dtype<kCommon>(p.b);
    const Raw<N> raw_grad = load<N>(from_grad, row_offset(from_grad, batch, token) + channel);
    const Raw<N> raw_a = load<N>(from_a, row_offset(from_a, batch, token) + channel);
    const Raw<N> raw_b = load<N>(from_b, row_offset(from_b, batch, token) + channel);
    const Vec<N> grad = widen(raw_grad, from_grad.dtype);
    const Vec<N> a = widen(raw_a, from_a.dtype), b = widen(raw_b, from_b.dtype);
    Vec<N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float sum = a[i] + b[i], s = sigmoid<kCommon>(sum);
      out[i] = grad[i] * s * (1 + sum * (1 - s));
    }
    store(of_dtype<kCommon>(p.grad_sum), row_offset(p.grad_sum, batch, token) + channel, out);
  }
};

}  // namespace

cudaError_t silu_add_cuda(const SiluAdd& p, int64_t rows, cudaStream_t stream) {
  const bool vectors = vectorizable(p.channels, p.a, p.b, p.out);
  return for_each_group<Forward>(p, vectors, common_dtype(p.a, p.b, p.out), rows, p.channels, stream);
}

cudaError_t silu_add_backward_cuda(const SiluAddBackward& p, int64_t rows, cudaStream_t stream) {
  const bool vectors = vectorizable(p.channels, p.grad, p.a, p.b, p.grad_sum);
  return for_each_group<Backward>(p, vectors, common_dtype(p.grad, p.a, p.b, p.grad_sum), rows, p.channels, stream);
}

}  // namespace flowar
