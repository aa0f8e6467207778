// The formula and the bytes moved: ../silu_add.h. One thread per group of N channels of a row.
#include "../silu_add.h"
#include "elementwise.cuh"

namespace flowar {
namespace {

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <int N>
struct Forward {
  SiluAdd p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Raw<N> raw_a = load<N>(p.a, row_offset(p.a, batch, token) + channel);
    const Raw<N> raw_b = load<N>(p.b, row_offset(p.b, batch, token) + channel);
    const Vec<N> a = widen(raw_a, p.a.dtype), b = widen(raw_b, p.b.dtype);
    Vec<N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float sum = a[i] + b[i];
      out[i] = sum * sigmoid(sum);
    }
    store(p.out, row_offset(p.out, batch, token) + channel, out);
  }
};

template <int N>
struct Backward {
  SiluAddBackward p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Raw<N> raw_grad = load<N>(p.grad, row_offset(p.grad, batch, token) + channel);
    const Raw<N> raw_a = load<N>(p.a, row_offset(p.a, batch, token) + channel);
    const Raw<N> raw_b = load<N>(p.b, row_offset(p.b, batch, token) + channel);
    const Vec<N> grad = widen(raw_grad, p.grad.dtype), a = widen(raw_a, p.a.dtype), b = widen(raw_b, p.b.dtype);
    Vec<N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float sum = a[i] + b[i], s = sigmoid(sum);
      out[i] = grad[i] * s * (1 + sum * (1 - s));
    }
    store(p.grad_sum, row_offset(p.grad_sum, batch, token) + channel, out);
  }
};

}  // namespace

cudaError_t silu_add_cuda(const SiluAdd& p, int64_t rows, cudaStream_t stream) {
  return vectorizable(p.channels, p.a, p.b, p.out)
             ? for_each_group<kVector>(Forward<kVector>{p}, rows, p.tokens, p.channels, stream)
             : for_each_group<1>(Forward<1>{p}, rows, p.tokens, p.channels, stream);
}

cudaError_t silu_add_backward_cuda(const SiluAddBackward& p, int64_t rows, cudaStream_t stream) {
  return vectorizable(p.channels, p.grad, p.a, p.b, p.grad_sum)
             ? for_each_group<kVector>(Backward<kVector>{p}, rows, p.tokens, p.channels, stream)
             : for_each_group<1>(Backward<1>{p}, rows, p.tokens, p.channels, stream);
}

}  // namespace flowar
