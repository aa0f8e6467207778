#include "../latent_pyramid.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "latent_pyramid.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(latent_pyramid_cpu, LatentPyramid)
#else

#  include "resample.inl"

namespace flowar::FLOWAR_ISA {

// One image [channels, pixels] of p.latents as tokens [pixels, channels].
template <typename T>
static void channels_last(const LatentPyramid& p, const Row& image, T* plane, T* grid) {
  const int64_t pixels = p.height * p.width;
  for (int64_t c = 0; c < p.channels; ++c) {
    const T* x = read(p.latents, image, c * p.latents.token_stride, pixels, plane);
    for (int64_t i = 0; i < pixels; ++i) grid[i * p.channels + c] = x[i];
  }
}

template <typename T>
static void forward(const LatentPyramid& p, int64_t begin, int64_t end) {
  const int64_t size = p.height * p.width * p.channels;
  const int64_t tokens = p.out.batch_stride / std::max<int64_t>(p.channels, 1);
  const Scratch<T> scratch(3, std::max(size, tokens * p.channels));
  for (Row image(begin, 1); image.index < end; image.next()) {
    channels_last(p, image, scratch[1], scratch[0]);
    T* const result = target(p.out, image, 0, scratch[1]);
    T* part = result;
    for (int64_t i = 0; i < p.operators; ++i) {
      resample(scratch[0], p.apply[i], p.channels, scratch[2], part);
      part += p.apply[i].out_height * p.apply[i].out_width * p.channels;
    }
    write(p.out, image, 0, part - result, result);
  }
}

static void latent_pyramid_cpu(const LatentPyramid& p, int64_t begin, int64_t end) {
  p.out.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
