// One pass of each_isa.h: the shared helpers, each built on those before it, then the kernel file.
#include "math.inl"

#include "rows.inl"

#include "norm.inl"

#include FLOWAR_KERNEL
