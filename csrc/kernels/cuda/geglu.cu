// The formula and the bytes moved: ../geglu.h. One thread per group of N channels of out.
#include "../geglu.h"
#include "elementwise.cuh"

namespace flowar {
namespace {

// The standard normal's distribution and density, the former as PyTorch has it.
__device__ float distribution(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }
__device__ float density(float x) { return 0.39894228f * expf(-0.5f * x * x); }

template <int N>
struct Forward {
  Geglu p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const int64_t at = row_offset(p.packed, batch, token) + channel;
    const Raw<N> raw_a = load<N>(p.packed, at), raw_b = load<N>(p.packed, at + p.hidden);
    const Vec<N> a = widen(raw_a, p.packed.dtype), b = widen(raw_b, p.packed.dtype);
    Vec<N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = a[i] * distribution(a[i]) * b[i];
    store(p.out, row_offset(p.out, batch, token) + channel, out);
  }
};

template <int N>
struct Backward {
  GegluBackward p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const int64_t at = row_offset(p.packed, batch, token) + channel;
    const Raw<N> raw_a = load<N>(p.packed, at), raw_b = load<N>(p.packed, at + p.hidden);
    const Raw<N> raw_grad = load<N>(p.grad, row_offset(p.grad, batch, token) + channel);
    const Vec<N> a = widen(raw_a, p.packed.dtype), b = widen(raw_b, p.packed.dtype);
    const Vec<N> grad = widen(raw_grad, p.grad.dtype);
    Vec<N> grad_a, grad_b;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float below = distribution(a[i]);
      grad_a[i] = grad[i] * b[i] * (below + a[i] * density(a[i]));
      grad_b[i] = grad[i] * a[i] * below;
    }
    const int64_t to = row_offset(p.grad_packed, batch, token) + channel;
    store(p.grad_packed, to, grad_a);
    store(p.grad_packed, to + p.hidden, grad_b);
  }
};

}  // namespace

cudaError_t geglu_cuda(const Geglu& p, int64_t rows, cudaStream_t stream) {
  return vectorizable(p.hidden, p.packed, p.out)
             ? for_each_group<kVector>(Forward<kVector>{p}, rows, p.tokens, p.hidden, stream)
             : for_each_group<1>(Forward<1>{p}, rows, p.tokens, p.hidden, stream);
}

cudaError_t geglu_backward_cuda(const GegluBackward& p, int64_t rows, cudaStream_t stream) {
  return vectorizable(p.hidden, p.grad, p.packed, p.grad_packed)
             ? for_each_group<kVector>(Backward<kVector>{p}, rows, p.tokens, p.hidden, stream)
             : for_each_group<1>(Backward<1>{p}, rows, p.tokens, p.hidden, stream);
}

}  // namespace flowar
