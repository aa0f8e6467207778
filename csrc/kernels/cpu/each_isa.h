// Compiles a kernel file once per instruction set: it includes FLOWAR_KERNEL, the file that includes it, again and
// again, each time in another namespace (flowar::FLOWAR_ISA) and for another target. Loops are plain C++; the
// compiler vectorises them for each target. Standard headers come first, so that they are compiled for none.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

#include "../tensor.h"
#include "isa.h"

#if defined(__clang__)
#  define FLOWAR_TARGET_AVX2 _Pragma("clang attribute push(__attribute__((target(\"avx2,fma\"))), apply_to=function)")
#  define FLOWAR_TARGET_AVX512                                                                            \
    _Pragma(                                                                                              \
        "clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma\"))), " \
        "apply_to=function)")
#  define FLOWAR_TARGET_END _Pragma("clang attribute pop")
#else
#  define FLOWAR_TARGET_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma\")")
#  define FLOWAR_TARGET_AVX512  \
    _Pragma("GCC push_options") \
        _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512\")")
#  define FLOWAR_TARGET_END _Pragma("GCC pop_options")
#endif

#define FLOWAR_ISA baseline
#include "kernel.inl"
#undef FLOWAR_ISA

#if FLOWAR_X86
FLOWAR_TARGET_AVX2
#  define FLOWAR_ISA avx2
#  include "kernel.inl"
#  undef FLOWAR_ISA
FLOWAR_TARGET_END

FLOWAR_TARGET_AVX512
#  define FLOWAR_ISA avx512
#  include "kernel.inl"
#  undef FLOWAR_ISA
FLOWAR_TARGET_END
#endif
