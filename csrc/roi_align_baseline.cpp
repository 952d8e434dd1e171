// RoIAlign's kernels for any processor of the architecture.
#include "roi_align_kernels.h"

#define MRCNN_ISA baseline
#define MRCNN_TARGET
#define MRCNN_VECTOR_BYTES 16
#include "roi_align_isa.h"
