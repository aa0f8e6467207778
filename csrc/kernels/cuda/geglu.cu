// The formula and the bytes moved: ../geglu.h. One thread per group of N channels of out.
#include "../geglu.h"

#include "approximate.cuh"
#include "elementwise.cuh"

namespace flowar {
namespace {

// The standard normal's density phi and distribution Phi.
struct Normal {
  float density, distribution;
};

// As PyTorch has them.
__device__ Normal normal(float x) { return {0.39894228f * expf(-0.5f * x * x), 0.5f * (1.0f + erff(x * 0.70710678f))}; }

// For results of 16 bits: Phi(-|x|) = e^(-x^2/2) R(|x|), R a polynomial in 1 / (1 + 0.36 |x|), relative error 1.3e-5.
__device__ Normal rounded_normal(float x) {
  const float gauss = power_of_two(-0.72134752f * x * x), t = reciprocal(1.0f + 0.36f * fabsf(x));
  float tail = -9.85179379e-2f;
  tail = tail * t + 2.54392685e-1f;
  tail = tail * t + 3.51122824e-2f;
  tail = tail * t + 1.68697067e-1f;
  tail = tail * t + 1.40123938e-1f;
  tail = tail * t + 1.91290938e-4f;
  tail *= gauss;
  return {0.39894228f * gauss, x > 0.0f ? 1.0f - tail : tail};
}

template <DType kCommon>
__device__ Normal normal_of(float x) {
  return kCommon == DType::kFloat32 ? normal(x) : rounded_normal(x);
}

template <int N, DType kCommon>
struct Forward {
  Geglu p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Input packed = of_dtype<kCommon>(p.packed);
    const int64_t at = row_offset(packed, batch, token) + channel;
    const Raw<N> raw_a = load<N>(packed, at), raw_b = load<N>(packed, at + p.hidden);
    const Vec<N> a = widen(raw_a, packed.dtype), b = widen(raw_b, packed.dtype);
    Vec<N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = a[i] * normal_of<kCommon>(a[i]).distribution * b[i];
    store(of_dtype<kCommon>(p.out), row_offset(p.out, batch, token) + channel, out);
  }
};

template <int N, DType kCommon>
struct Backward {
  GegluBackward p;
  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const Input packed = of_dtype<kCommon>(p.packed), grad_out = of_dtype<kCommon>(p.grad);
    const int64_t at = row_offset(packed, batch, token) + channel;
    const Raw<N> raw_a = load<N>(packed, at), raw_b = load<N>(packed, at + p.hidden);
    const Raw<N> raw_grad = load<N>(grad_out, row_offset(grad_out, batch, token) + channel);
    const Vec<N> a = widen(raw_a, packed.dtype), b = widen(raw_b, packed.dtype);
    const Vec<N> grad = widen(raw_grad, grad_out.dtype);
    Vec<N> grad_a, grad_b;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Normal n = normal_of<kCommon>(a[i]);
      grad_a[i] = grad[i] * b[i] * (n.distribution + a[i] * n.density);
      grad_b[i] = grad[i] * a[i] * n.distribution;
    }
    const Output grad_packed = of_dtype<kCommon>(p.grad_packed);
    const int64_t to = row_offset(grad_packed, batch, token) + channel;
    store(grad_packed, to, grad_a);
    store(grad_packed, to + p.hidden, grad_b);
  }
};

}  // namespace

cudaError_t geglu_cuda(const Geglu& p, int64_t rows, cudaStream_t stream) {
  const bool vectors = vectorizable(p.hidden, p.packed, p.out);
  return for_each_group<Forward>(p, vectors, common_dtype(p.packed, p.out), rows, p.hidden, stream);
}

cudaError_t geglu_backward_cuda(const GegluBackward& p, int64_t rows, cudaStream_t stream) {
  const bool vectors = vectorizable(p.hidden, p.grad, p.packed, p.grad_packed);
  return for_each_group<Backward>(p, vectors, common_dtype(p.grad, p.packed, p.grad_packed), rows, p.hidden, stream);
}

}  // namespace flowar
