// RoIAlign's kernels for x86-64 processors with AVX2 (x86-64-v3).
#include "roi_align_kernels.h"

#ifdef MRCNN_MULTIPLE_ISAS
#define MRCNN_ISA avx2
#define MRCNN_TARGET __attribute__((target("avx2,fma,f16c")))
#define MRCNN_VECTOR_BYTES 32
#include "roi_align_isa.h"
#endif
