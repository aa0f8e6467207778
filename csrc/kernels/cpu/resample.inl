// One separable operator on one image, shared by latent_resample and latent_pyramid.
namespace flowar::FLOWAR_ISA {

template <typename T>
static inline void add_scaled(const T* x, T weight, int64_t count, T* sum) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sum[i] += weight * x[i];
}

// grid [in_height * in_width, channels] to out [out_height * out_width, channels]; `line` has room for one grid row.
template <typename T>
static void resample(const T* grid, const SeparableOperator& apply, int64_t channels, T* line, T* out) {
  const T* rows = static_cast<const T*>(apply.rows);
  const int64_t in_line = apply.in_width * channels, out_line = apply.out_width * channels;
  std::fill_n(out, apply.out_height * out_line, T(0));
  for (int64_t i = 0; i < apply.out_height; ++i, rows += apply.in_height, out += out_line) {
    std::fill_n(line, in_line, T(0));
    for (int64_t p = 0; p < apply.in_height; ++p) {
      if (rows[p] != 0) add_scaled(grid + p * in_line, rows[p], in_line, line);
    }
    const T* columns = static_cast<const T*>(apply.columns);
    for (int64_t j = 0; j < apply.out_width; ++j, columns += apply.in_width) {
      for (int64_t q = 0; q < apply.in_width; ++q) {
        if (columns[q] != 0) add_scaled(line + q * channels, columns[q], channels, out + j * channels);
      }
    }
  }
}

}  // namespace flowar::FLOWAR_ISA
