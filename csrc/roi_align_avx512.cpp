// RoIAlign's kernels for x86-64 processors with AVX-512 (x86-64-v4).
#include "roi_align_kernels.h"

#ifdef MRCNN_MULTIPLE_ISAS
#define MRCNN_ISA avx512
#define MRCNN_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define MRCNN_VECTOR_BYTES 64
#include "roi_align_isa.h"
#endif
