#include "../latent_resample.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "latent_resample.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(latent_resample_cpu, LatentResample)
#else

#  include "resample.inl"

namespace flowar::FLOWAR_ISA {

template <typename T>
static void forward(const LatentResample& p, int64_t begin, int64_t end) {
  const int64_t in = p.apply.in_height * p.apply.in_width * p.channels;
  const int64_t out = p.apply.out_height * p.apply.out_width * p.channels;
  const Scratch<T> scratch(3, std::max(in, out));
  for (Row image(begin, 1); image.index < end; image.next()) {
    const T* grid = read(p.grid, image, 0, in, scratch[0]);
    T* result = target(p.out, image, 0, scratch[1]);
    resample(grid, p.apply, p.channels, scratch[2], result);
    write(p.out, image, 0, out, result);
  }
}

static void latent_resample_cpu(const LatentResample& p, int64_t begin, int64_t end) {
  p.out.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
