// Checks of arguments, and views of tensors as kernels see them. Every message reads
// "flowar::op: argument: expected ..., got ...".
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "../kernels/tensor.h"

namespace flowar {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A tensor of up to three dimensions, or of more with the leading ones merged, as [batch, tokens, channels].
struct Shape {
  int64_t batch;
  int64_t tokens;
  int64_t channels;
  int64_t rows() const { return batch * tokens; }
};

// float64 where it takes part; else the common dtype, or float32 where dtypes differ: torch.promote_types.
DType promote(std::initializer_list<DType> dtypes);

// An uninitialised contiguous tensor on the device of `like`.
Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like);
Tensor empty(const std::vector<int64_t>& sizes, DType dtype, const Tensor& like);
std::vector<int64_t> sizes_of(const Tensor& x);

// A contiguous tensor of this shape, as a view to write to.
Output contiguous_output(const Tensor& x, const Shape& shape, DType dtype);

// How a message shows a part of it.
std::string text(const std::vector<int64_t>& sizes);
inline std::string text(const Tensor& x) { return text(sizes_of(x)); }
inline std::string text(const char* words) { return words; }
inline std::string text(int64_t number) { return std::to_string(number); }

// The arguments of one call of one op. Functions that return views take the tensor by reference: where its channels
// are not adjacent it becomes a contiguous copy, which must outlive the kernel.
class Arguments {
 public:
  explicit Arguments(const char* op) : op_(op) {}

  // The message is put together on failure only: `expected` are its parts, `got` what came.
  template <typename Got, typename... Expected>
  void require(bool condition, const char* argument, const Got& got, const Expected&... expected) const {
    if (!condition) fail(argument, (text(expected) + ...), text(got));
  }
  // x is on the backend, and on the same device as the tensors that were checked before.
  void require_backend(const char* argument, const Tensor& x) const;

  Shape shape(const char* argument, Tensor& x) const;
  DType dtype(const char* argument, const Tensor& x) const;
  // x as a view of `shape`, to which it broadcasts.
  Input input(const char* argument, Tensor& x, const Shape& shape) const;
  // x, which must have exactly this shape and adjacent channels, as a view to write to.
  Output output(const char* argument, const Tensor& x, const Shape& shape) const;

 private:
  [[noreturn]] void fail(const char* argument, const std::string& expected, const std::string& got) const;
  const char* op_;
  mutable int64_t device_index_ = -1;  // of the tensors so far
};

}  // namespace flowar
