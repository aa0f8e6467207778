#include "check.h"

#include <stdexcept>

#include "device.h"

namespace flowar {
namespace {

ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return ScalarType::Double;
    case DType::kBFloat16:
      return ScalarType::BFloat16;
    case DType::kFloat16:
      return ScalarType::Half;
    case DType::kFloat32:
      break;
  }
  return ScalarType::Float;
}

bool channels_adjacent(const Tensor& x) { return x.size(x.dim() - 1) <= 1 || x.stride(x.dim() - 1) == 1; }

// Strides of [batch, tokens], 0 for a dimension that x lacks or has once.
template <typename Void>
Tokens<Void> view(const Tensor& x, Void* data, DType dtype) {
  const int64_t dim = x.dim();
  const auto stride = [&](int64_t d) { return d >= 0 && x.size(d) != 1 ? x.stride(d) : 0; };
  return {data, stride(dim - 3), stride(dim - 2), dtype};
}

}  // namespace

DType promote(std::initializer_list<DType> dtypes) {
  DType common = *dtypes.begin();
  for (const DType dtype : dtypes) {
    if (dtype == DType::kFloat64) return dtype;
    if (dtype != common) common = DType::kFloat32;
  }
  return common;
}

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= std::max<int64_t>(sizes[i], 1)) strides[i] = stride;
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  type, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor empty(const std::vector<int64_t>& sizes, DType dtype, const Tensor& like) {
  return empty(sizes, scalar_type(dtype), like);
}

std::vector<int64_t> sizes_of(const Tensor& x) {
  const auto sizes = x.sizes();
  return {sizes.begin(), sizes.end()};
}

Output contiguous_output(const Tensor& x, const Shape& shape, DType dtype) {
  return {x.data_ptr(), shape.tokens * shape.channels, shape.channels, dtype};
}

std::string text(const std::vector<int64_t>& sizes) {
  std::string list = "[";
  for (size_t i = 0; i < sizes.size(); ++i) list += (i ? ", " : "") + std::to_string(sizes[i]);
  return list + "]";
}

void Arguments::fail(const char* argument, const std::string& expected, const std::string& got) const {
  throw std::runtime_error(std::string("flowar::") + op_ + ": " + argument + ": expected " + expected + ", got " + got);
}

void Arguments::require_backend(const char* argument, const Tensor& x) const {
  require(on_backend(x), argument, "one on another device", "a tensor on ", kBackendName);
  const int64_t index = device_index(x);
  if (device_index_ < 0) device_index_ = index;
  if (index == device_index_) return;
  const std::string first = std::to_string(device_index_);
  fail(argument, "a tensor on device " + first + ", like the arguments before it", "one on " + std::to_string(index));
}

DType Arguments::dtype(const char* argument, const Tensor& x) const {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      require(kBackendHasFloat64, argument, "float64", "float32, bfloat16 or float16 on ", kBackendName);
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      fail(argument, "a floating dtype of 16, 32 or 64 bits", "another dtype");
  }
}

Shape Arguments::shape(const char* argument, Tensor& x) const {
  const int64_t dim = x.dim();
  require(dim > 0, argument, x, "at least one dimension");
  if (dim > 3) x = torch::stable::reshape(x, std::vector<int64_t>{-1, x.size(dim - 2), x.size(dim - 1)});
  const auto size = [&](int64_t d) { return d >= 0 ? x.size(d) : 1; };
  return {size(x.dim() - 3), size(x.dim() - 2), size(x.dim() - 1)};
}

Input Arguments::input(const char* argument, Tensor& x, const Shape& to) const {
  require_backend(argument, x);
  const Shape from = shape(argument, x);
  const auto fits = [](int64_t have, int64_t want) { return have == want || have == 1; };
  require(fits(from.batch, to.batch) && fits(from.tokens, to.tokens) && fits(from.channels, to.channels), argument, x,
          "a shape that broadcasts to ", std::vector<int64_t>{to.batch, to.tokens, to.channels});
  if (from.channels != to.channels) {
    Tensor wide = empty({from.batch, from.tokens, to.channels}, dtype(argument, x), x);
    x = torch::stable::copy_(wide, x);
  }
  if (!channels_adjacent(x)) x = torch::stable::contiguous(x);
  return view<const void>(x, x.data_ptr(), dtype(argument, x));
}

Output Arguments::output(const char* argument, const Tensor& x, const Shape& shape) const {
  require_backend(argument, x);
  require(x.dim() == 3 && x.size(0) == shape.batch && x.size(1) == shape.tokens && x.size(2) == shape.channels,
          argument, x, "shape ", std::vector<int64_t>{shape.batch, shape.tokens, shape.channels});
  require(channels_adjacent(x), argument, x.stride(2), "a last dimension of stride 1");
  return view<void>(x, x.data_ptr(), dtype(argument, x));
}

}  // namespace flowar
