// The matrices of separable operators, shared by latent_resample and latent_pyramid.
#pragma once

#include "../kernels/latent_resample.h"
#include "check.h"

namespace flowar {

// Checks `rows` and `columns` and makes them contiguous and of the precision that kernels compute in for `dtype`;
// they must outlive the kernel.
inline SeparableOperator separable_operator(const Arguments& arguments, Tensor& rows, Tensor& columns, DType dtype) {
  const ScalarType compute = dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  const auto prepare = [&](const char* name, Tensor& matrix) {
    arguments.require(matrix.dim() == 2, name, matrix, "a matrix [out, in]");
    arguments.dtype(name, matrix);
    arguments.require_backend(name, matrix);
    if (matrix.scalar_type() != compute) matrix = torch::stable::to(matrix, compute);
    if (!matrix.is_contiguous()) matrix = torch::stable::contiguous(matrix);
  };
  prepare("rows", rows);
  prepare("columns", columns);
  return {rows.data_ptr(), columns.data_ptr(), rows.size(1), columns.size(1), rows.size(0), columns.size(0)};
}

}  // namespace flowar
