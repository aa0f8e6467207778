// Rows of any dtype, seen as rows of T (float, or double where float64 takes part). A row that is of T already is used
// in place; any other goes through a scratch row in the first-level cache.
namespace flowar::FLOWAR_ISA {

constexpr int64_t kChunk = 1024;  // elements of a scratch row where a kernel works through rows chunk by chunk

// The (batch, token) pairs of a range of rows, in order, without a division per row.
struct Row {
  Row(int64_t index, int64_t tokens)
      : index(index), batch(tokens ? index / tokens : 0), token(tokens ? index % tokens : 0), tokens(tokens) {}
  void next() {
    ++index;
    if (++token == tokens) {
      token = 0;
      ++batch;
    }
  }
  int64_t index, batch, token, tokens;
};

// `rows` scratch rows of `count` elements, for kernels that need whole rows.
template <typename T>
class Scratch {
 public:
  Scratch(int64_t rows, int64_t count) : count_(count), data_(new T[rows * count]) {}
  T* operator[](int64_t row) const { return data_.get() + row * count_; }

 private:
  int64_t count_;
  std::unique_ptr<T[]> data_;
};

template <typename Void>
FLOWAR_ELEMENT int64_t offset(const Tokens<Void>& x, const Row& row, int64_t channel) {
  return row.batch * x.batch_stride + row.token * x.token_stride + channel;
}

template <typename T>
constexpr DType dtype_of() {
  return std::is_same_v<T, double> ? DType::kFloat64 : DType::kFloat32;
}

template <typename T, typename From, typename Widen>
FLOWAR_ELEMENT const T* widened(const From* from, int64_t count, T* scratch, Widen widen) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) scratch[i] = widen(from[i]);
  return scratch;
}

// `count` channels of x from `channel` on.
template <typename T>
static const T* read(const Input& x, const Row& row, int64_t channel, int64_t count, T* scratch) {
  const int64_t at = offset(x, row, channel);
  if (x.dtype == dtype_of<T>()) return static_cast<const T*>(x.data) + at;
  switch (x.dtype) {
    case DType::kBFloat16:
      return widened(static_cast<const uint16_t*>(x.data) + at, count, scratch,
                     [](uint16_t v) { return T(widen_bfloat16(v)); });
    case DType::kFloat16:
      return widened(static_cast<const uint16_t*>(x.data) + at, count, scratch,
                     [](uint16_t v) { return T(widen_float16(v)); });
    case DType::kFloat32:
      return widened(static_cast<const float*>(x.data) + at, count, scratch, [](float v) { return T(v); });
    case DType::kFloat64:
      return widened(static_cast<const double*>(x.data) + at, count, scratch, [](double v) { return T(v); });
  }
  return scratch;
}

// Where to compute the elements of x from `channel` on; `write` then puts them into place.
template <typename T>
static T* target(const Output& x, const Row& row, int64_t channel, T* scratch) {
  return x.dtype == dtype_of<T>() ? static_cast<T*>(x.data) + offset(x, row, channel) : scratch;
}

template <typename T, typename To, typename Narrow>
FLOWAR_ELEMENT void narrowed(const T* values, int64_t count, To* to, Narrow narrow) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = narrow(values[i]);
}

template <typename T>
static void write(const Output& x, const Row& row, int64_t channel, int64_t count, const T* values) {
  if (x.dtype == dtype_of<T>()) return;
  const int64_t at = offset(x, row, channel);
  switch (x.dtype) {
    case DType::kBFloat16:
      return narrowed(values, count, static_cast<uint16_t*>(x.data) + at,
                      [](T v) { return narrow_bfloat16(float(v)); });
    case DType::kFloat16:
      return narrowed(values, count, static_cast<uint16_t*>(x.data) + at, [](T v) { return narrow_float16(float(v)); });
    case DType::kFloat32:
      return narrowed(values, count, static_cast<float*>(x.data) + at, [](T v) { return float(v); });
    case DType::kFloat64:
      return narrowed(values, count, static_cast<double*>(x.data) + at, [](T v) { return double(v); });
  }
}

// A row that is at hand in T already, copied to x in its dtype.
template <typename T>
static void copy(const Output& x, const Row& row, int64_t channel, int64_t count, const T* values) {
  if (x.dtype == dtype_of<T>()) std::copy_n(values, count, target<T>(x, row, channel, nullptr));
  write(x, row, channel, count, values);
}

}  // namespace flowar::FLOWAR_ISA
