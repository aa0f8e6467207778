// Every op of the library. Shapes, dtypes and formulas: the function of the same name in flowar/ops/reference.py.
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

#include "kernels/cpu/isa.h"

namespace {

std::string cpu_isa(std::string select) {
  if (!select.empty() && !flowar::select_isa(select.c_str())) {
    throw std::runtime_error(
        "flowar::cpu_isa: select: expected an instruction set of this processor (baseline, avx2, avx512), got " +
        select);
  }
  return flowar::isa_name(flowar::current_isa());
}

}  // namespace

STABLE_TORCH_LIBRARY(flowar, m) {
  m.def("cpu_isa(str select) -> str");
  m.def("spatial_adaln(Tensor x, Tensor scale, Tensor shift, bool layer_norm, float eps) -> Tensor");
  m.def("spatial_adaln_backward(Tensor grad, Tensor x, Tensor scale, bool layer_norm, float eps) -> (Tensor, Tensor)");
  m.def(
      "spatial_adaln_residual(Tensor x, Tensor gate, Tensor branch, Tensor scale, Tensor shift, bool layer_norm, "
      "float eps) -> (Tensor, Tensor)");
  m.def(
      "spatial_adaln_residual_backward(Tensor grad_sum, Tensor grad_out, Tensor sum, Tensor gate, Tensor branch, "
      "Tensor scale, bool layer_norm, float eps) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("rotary_qkv(Tensor packed, Tensor rotation, int heads, int parts) -> Tensor");
  m.def("rotary_qkv_backward(Tensor grad, Tensor rotation) -> Tensor");
  m.def(
      "rotary_qkv_cache(Tensor packed, Tensor rotation, int heads, Tensor(a!) k_cache, Tensor(b!) v_cache, int offset) "
      "-> Tensor");
  m.def("geglu(Tensor packed) -> Tensor");
  m.def("geglu_backward(Tensor grad, Tensor packed) -> Tensor");
  m.def("silu_add(Tensor a, Tensor b) -> Tensor");
  m.def("silu_add_backward(Tensor grad, Tensor a, Tensor b) -> Tensor");
  m.def("latent_resample(Tensor tokens, Tensor rows, Tensor columns) -> Tensor");
  m.def("latent_pyramid(Tensor latents, Tensor[] rows, Tensor[] columns) -> Tensor");
  m.def(
      "velocity_step(Tensor(a!) state, Tensor velocity, float dt, float guidance_weight, Tensor(b!)? next_input) -> "
      "()");
  m.def("quantize_rows(Tensor x) -> (Tensor, Tensor)");
  m.def("checked_copy(Tensor(a!) out, Tensor source) -> Tensor");
  m.def("counter_normal(Tensor seeds, int stream, int count) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(flowar, CompositeExplicitAutograd, m) { m.impl("cpu_isa", TORCH_BOX(&cpu_isa)); }
