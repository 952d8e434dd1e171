// RoIAlign's kernels for x86-64 processors with AVX2 (x86-64-v3).
#include "cpu/kernels.h"

#ifdef MRCNN_MULTIPLE_ISAS
#define MRCNN_ISA avx2
#define MRCNN_TARGET __attribute__((target("avx2,fma,f16c")))
#define MRCNN_VECTOR_BYTES 32
#include "cpu/kernels.inc"
#endif
