// The norm of one row and its gradient, shared by spatial_adaln and spatial_adaln_residual.
namespace flowar::FLOWAR_ISA {

template <typename T>
struct Statistics {
  T mean;
  T rstd;
};

template <typename T>
static inline Statistics<T> statistics(const T* x, int64_t channels, bool layer_norm, double eps) {
  T mean = 0;
  if (layer_norm) {
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < channels; ++i) mean += x[i];
    mean /= static_cast<T>(channels);
  }
  T squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < channels; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, 1 / std::sqrt(squares / static_cast<T>(channels) + static_cast<T>(eps))};
}

template <typename T>
static inline void modulate(const T* x, Statistics<T> s, const T* scale, const T* shift, int64_t channels, T* out) {
#pragma omp simd
  for (int64_t i = 0; i < channels; ++i) out[i] = (x[i] - s.mean) * s.rstd * (1 + scale[i]) + shift[i];
}

// The means over channels of u = grad * (1 + scale) and of u * norm(x) that grad_x subtracts.
template <typename T>
struct Projection {
  T on_one;
  T on_norm;
};

template <typename T>
static inline Projection<T> projection(const T* grad, const T* x, Statistics<T> s, const T* scale, int64_t channels,
                                       bool layer_norm) {
  T on_one = 0, on_norm = 0;
#pragma omp simd reduction(+ : on_one, on_norm)
  for (int64_t i = 0; i < channels; ++i) {
    const T u = grad[i] * (1 + scale[i]);
    on_one += u;
    on_norm += u * ((x[i] - s.mean) * s.rstd);
  }
  const T count = static_cast<T>(channels);
  return {layer_norm ? on_one / count : 0, on_norm / count};
}

template <typename T>
FLOWAR_ELEMENT T norm_gradient(T grad, T x, Statistics<T> s, T scale, Projection<T> p) {
  return s.rstd * (grad * (1 + scale) - p.on_one - (x - s.mean) * s.rstd * p.on_norm);
}

// Writes value(i) to every channel; where x sums the tokens of a batch entry (token stride 0, dtype T), adds it.
template <typename T, typename Value>
FLOWAR_ELEMENT void write_gradient(const Output& x, const Row& row, int64_t channels, T* scratch, Value value) {
  T* out = target(x, row, 0, scratch);
  if (x.token_stride == 0 && row.token != 0) {
#pragma omp simd
    for (int64_t i = 0; i < channels; ++i) out[i] += value(i);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < channels; ++i) out[i] = value(i);
  }
  write(x, row, 0, channels, out);
}

}  // namespace flowar::FLOWAR_ISA
