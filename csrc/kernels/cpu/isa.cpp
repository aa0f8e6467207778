#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace flowar {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best_isa() {
#if FLOWAR_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx2 && avx512 ? Isa::kAvx512 : avx2 ? Isa::kAvx2 : Isa::kBaseline;
#else
  return Isa::kBaseline;
#endif
}

bool find_isa(const char* name, Isa& found) {
  for (int i = 0; i <= static_cast<int>(best_isa()); ++i) {
    if (std::strcmp(name, kNames[i]) == 0) {
      found = static_cast<Isa>(i);
      return true;
    }
  }
  return false;
}

Isa initial_isa() {
  Isa isa = best_isa();
  if (const char* wanted = std::getenv("FLOWAR_ISA")) find_isa(wanted, isa);
  return isa;
}

std::atomic<Isa>& selected() {
  static std::atomic<Isa> isa{initial_isa()};
  return isa;
}

}  // namespace

Isa current_isa() { return selected().load(std::memory_order_relaxed); }

bool select_isa(const char* name) {
  Isa isa;
  if (!find_isa(name, isa)) return false;
  selected().store(isa, std::memory_order_relaxed);
  return true;
}

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

}  // namespace flowar
