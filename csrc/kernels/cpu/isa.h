// The instruction sets a kernel is compiled for, and which of them this machine runs.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#  define FLOWAR_X86 1
#else
#  define FLOWAR_X86 0
#endif

namespace flowar {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best one the processor has, unless the environment variable FLOWAR_ISA or select_isa chose a lesser one.
Isa current_isa();

// "baseline", "avx2" or "avx512". False, and no change, where the name is unknown or the processor lacks it.
bool select_isa(const char* name);
const char* isa_name(Isa isa);

}  // namespace flowar

// Defines the public entry point `name(params, begin, end)`, which calls that function of the current set.
#if FLOWAR_X86
#  define FLOWAR_DISPATCH(name, Params)                              \
    void flowar::name(const Params& p, int64_t begin, int64_t end) { \
      switch (current_isa()) {                                       \
        case Isa::kAvx512:                                           \
          return avx512::name(p, begin, end);                        \
        case Isa::kAvx2:                                             \
          return avx2::name(p, begin, end);                          \
        case Isa::kBaseline:                                         \
          return baseline::name(p, begin, end);                      \
      }                                                              \
    }
#else
#  define FLOWAR_DISPATCH(name, Params) \
    void flowar::name(const Params& p, int64_t begin, int64_t end) { baseline::name(p, begin, end); }
#endif
