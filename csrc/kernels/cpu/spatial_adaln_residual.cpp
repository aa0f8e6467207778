#include "../spatial_adaln_residual.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "spatial_adaln_residual.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(spatial_adaln_residual_cpu, SpatialAdalnResidual)
FLOWAR_DISPATCH(spatial_adaln_residual_backward_cpu, SpatialAdalnResidualBackward)
#else

namespace flowar::FLOWAR_ISA {

template <typename T>
static void forward(const SpatialAdalnResidual& p, int64_t begin, int64_t end) {
  const int64_t n = p.channels;
  const Scratch<T> scratch(7, n);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    const T* x = read(p.x, row, 0, n, scratch[0]);
    const T* gate = read(p.gate, row, 0, n, scratch[1]);
    const T* branch = read(p.branch, row, 0, n, scratch[2]);
    const T* scale = read(p.scale, row, 0, n, scratch[3]);
    const T* shift = read(p.shift, row, 0, n, scratch[4]);
    T* sum = target(p.sum, row, 0, scratch[5]);
    T* out = target(p.out, row, 0, scratch[6]);
#  pragma omp simd
    for (int64_t i = 0; i < n; ++i) sum[i] = x[i] + gate[i] * branch[i];
    modulate(sum, statistics(sum, n, p.layer_norm, p.eps), scale, shift, n, out);
    write(p.sum, row, 0, n, sum);
    write(p.out, row, 0, n, out);
  }
}

template <typename T>
static void backward(const SpatialAdalnResidualBackward& p, int64_t begin, int64_t end) {
  const int64_t n = p.channels;
  const Scratch<T> scratch(10, n);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    const T* grad_sum = read(p.grad_sum, row, 0, n, scratch[0]);
    const T* grad = read(p.grad_out, row, 0, n, scratch[1]);
    const T* sum = read(p.sum, row, 0, n, scratch[2]);
    const T* gate = read(p.gate, row, 0, n, scratch[3]);
    const T* branch = read(p.branch, row, 0, n, scratch[4]);
    const T* scale = read(p.scale, row, 0, n, scratch[5]);
    const NormGradient<T> g = norm_gradient(grad, sum, scale, n, p.layer_norm, p.eps);
    T* total = target(p.grad_x, row, 0, scratch[6]);
    for (int64_t c = 0; c < n; c += kGradientChannels) {
      const int64_t end = std::min(c + kGradientChannels, n);
#  pragma omp simd
      for (int64_t i = c; i < end; ++i) total[i] = grad_sum[i] + g.of(grad[i], sum[i], scale[i]);
      write_gradient(p.grad_gate, row, c, end, scratch[7], [=](int64_t i) { return total[i] * branch[i]; });
      write_gradient(p.grad_branch, row, c, end, scratch[8], [=](int64_t i) { return total[i] * gate[i]; });
      write_gradient(p.grad_scale, row, c, end, scratch[9], [=](int64_t i) { return grad[i] * g.norm(sum[i]); });
    }
    write(p.grad_x, row, 0, n, total);
  }
}

static void spatial_adaln_residual_cpu(const SpatialAdalnResidual& p, int64_t begin, int64_t end) {
  p.out.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

static void spatial_adaln_residual_backward_cpu(const SpatialAdalnResidualBackward& p, int64_t begin, int64_t end) {
  p.grad_out.dtype == DType::kFloat64 ? backward<double>(p, begin, end) : backward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
