// Fresh memory full of NaN: with this library in LD_PRELOAD, whatever torch allocates on a CPU, which it does by
// posix_memalign, is bytes of 0xFF until it is written. That is NaN in every floating dtype, and an index out of
// range in every integer one. Processes that a test starts inherit it.
#include <dlfcn.h>

#include <cstddef>
#include <cstring>

extern "C" int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) noexcept {
  using Allocate = int (*)(void**, std::size_t, std::size_t);
  static const Allocate allocate = reinterpret_cast<Allocate>(dlsym(RTLD_NEXT, "posix_memalign"));
  const int error = allocate(memory, alignment, bytes);
  if (error == 0) std::memset(*memory, 0xFF, bytes);
  return error;
}
