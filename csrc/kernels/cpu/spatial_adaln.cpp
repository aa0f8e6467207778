#include "../spatial_adaln.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "spatial_adaln.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(spatial_adaln_cpu, SpatialAdaln)
FLOWAR_DISPATCH(spatial_adaln_backward_cpu, SpatialAdalnBackward)
#else

namespace flowar::FLOWAR_ISA {

template <typename T>
static void forward(const SpatialAdaln& p, int64_t begin, int64_t end) {
  const int64_t n = p.channels;
  const Scratch<T> scratch(4, n);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    const T* x = read(p.x, row, 0, n, scratch[0]);
    const T* scale = read(p.scale, row, 0, n, scratch[1]);
    const T* shift = read(p.shift, row, 0, n, scratch[2]);
    T* out = target(p.out, row, 0, scratch[3]);
    modulate(x, statistics(x, n, p.layer_norm, p.eps), scale, shift, n, out);
    write(p.out, row, 0, n, out);
  }
}

template <typename T>
static void backward(const SpatialAdalnBackward& p, int64_t begin, int64_t end) {
  const int64_t n = p.channels;
  const Scratch<T> scratch(5, n);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    const T* grad = read(p.grad, row, 0, n, scratch[0]);
    const T* x = read(p.x, row, 0, n, scratch[1]);
    const T* scale = read(p.scale, row, 0, n, scratch[2]);
    const NormGradient<T> g = norm_gradient(grad, x, scale, n, p.layer_norm, p.eps);
    for (int64_t c = 0; c < n; c += kGradientChannels) {
      const int64_t end = std::min(c + kGradientChannels, n);
      write_gradient(p.grad_x, row, c, end, scratch[3], [=](int64_t i) { return g.of(grad[i], x[i], scale[i]); });
      write_gradient(p.grad_scale, row, c, end, scratch[4], [=](int64_t i) { return grad[i] * g.norm(x[i]); });
    }
  }
}

static void spatial_adaln_cpu(const SpatialAdaln& p, int64_t begin, int64_t end) {
  p.out.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

static void spatial_adaln_backward_cpu(const SpatialAdalnBackward& p, int64_t begin, int64_t end) {
  p.grad.dtype == DType::kFloat64 ? backward<double>(p, begin, end) : backward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
