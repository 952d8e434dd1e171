// RoIAlign's kernels for x86-64 processors with AVX-512 (x86-64-v4).
#include "cpu/kernels.h"

#ifdef MRCNN_MULTIPLE_ISAS
// GCC 12 warns of the undefined operands in its own header.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define MRCNN_ISA avx512
#define MRCNN_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define MRCNN_VECTOR_BYTES 64
#include "cpu/kernels.inc"
#endif
