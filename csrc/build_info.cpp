// What the libraries were built with and what this processor can run; nothing here is a tensor op.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace {

std::vector<std::string> cpu_features() {
  std::vector<std::string> features;
#if defined(__x86_64__) && defined(__GNUC__)
#  define FLOWAR_FEATURE(name) \
    if (__builtin_cpu_supports(name)) features.emplace_back(name)
  FLOWAR_FEATURE("avx2");
  FLOWAR_FEATURE("fma");
  FLOWAR_FEATURE("avx512f");
  FLOWAR_FEATURE("avx512bw");
  FLOWAR_FEATURE("avx512dq");
  FLOWAR_FEATURE("avx512vl");
  FLOWAR_FEATURE("avx512vnni");
#endif
  return features;
}

}  // namespace

PYBIND11_MODULE(_build_info, m) {
#if defined(__clang__)
  m.attr("compiler") = "clang " __clang_version__;
#elif defined(__GNUC__)
  m.attr("compiler") = "gcc " __VERSION__;
#else
  m.attr("compiler") = "unknown";
#endif
  m.attr("torch_version") = FLOWAR_TORCH_VERSION;            // at build time
  m.attr("cuda_architectures") = FLOWAR_CUDA_ARCHITECTURES;  // of _C_cuda; empty where it was not built
  m.def("cpu_features", &cpu_features, "The vector instruction sets of this processor that kernels may use.");
}
