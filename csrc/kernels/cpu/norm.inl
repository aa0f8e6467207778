// The norm of one row and its gradient, shared by spatial_adaln and spatial_adaln_residual.
namespace flowar::FLOWAR_ISA {

template <typename T>
struct Statistics {
  T mean;
  T rstd;
};

template <typename T>
static inline T mean_of(const T* x, int64_t channels) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < channels; ++i) sum += x[i];
  return sum / static_cast<T>(channels);
}

template <typename T>
static inline Statistics<T> statistics(const T* x, int64_t channels, bool layer_norm, double eps) {
  const T mean = layer_norm ? mean_of(x, channels) : 0;
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

// What the gradient of the norm of a row needs besides the row: its statistics, and the means over channels of
// u = grad * (1 + scale) and of u * norm(x) that grad_x subtracts.
template <typename T>
struct NormGradient {
  T mean;
  T rstd;
  T on_one;
  T on_norm;

  // The norm of x, one element.
  [[gnu::always_inline]] T norm(T x) const { return (x - mean) * rstd; }
  // The gradient of x through the modulated norm, one element.
  [[gnu::always_inline]] T of(T grad, T x, T scale) const {
    return rstd * (grad * (1 + scale) - on_one - norm(x) * on_norm);
  }
};

// One pass over the three rows (one more over x for the layer norm), so that they come from memory side by side.
template <typename T>
static inline NormGradient<T> norm_gradient(const T* grad, const T* x, const T* scale, int64_t channels,
                                            bool layer_norm, double eps) {
  const T count = static_cast<T>(channels), mean = layer_norm ? mean_of(x, channels) : 0;
  T squares = 0, on_one = 0, on_centred = 0;
#pragma omp simd reduction(+ : squares, on_one, on_centred)
  for (int64_t i = 0; i < channels; ++i) {
    const T u = grad[i] * (1 + scale[i]), centred = x[i] - mean;
    squares += centred * centred;
    on_one += u;
    on_centred += u * centred;
  }
  const T rstd = 1 / std::sqrt(squares / count + static_cast<T>(eps));
  return {mean, rstd, layer_norm ? on_one / count : 0, on_centred * rstd / count};
}

// Gradients are computed so many channels at a time, one after the other: all rows that take part then come from memory
// side by side, and each loop is over few of them.
constexpr int64_t kGradientChannels = 256;

// Writes value(i) to channels begin .. end - 1; where x sums the tokens of a batch entry (token stride 0, dtype T),
// adds it. `scratch` is a whole row.
template <typename T, typename Value>
FLOWAR_ELEMENT void write_gradient(const Output& x, const Row& row, int64_t begin, int64_t end, T* scratch,
                                   Value value) {
  T* out = target(x, row, 0, scratch);
  if (x.token_stride == 0 && row.token != 0) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] += value(i);
  } else {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = value(i);
  }
  write(x, row, begin, end - begin, out + begin);
}

}  // namespace flowar::FLOWAR_ISA
