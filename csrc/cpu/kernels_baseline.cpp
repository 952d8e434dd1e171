// RoIAlign's kernels for any processor of the architecture.
#include "cpu/kernels.h"

#define MRCNN_ISA baseline
#define MRCNN_TARGET
#define MRCNN_VECTOR_BYTES 16
#include "cpu/kernels.inc"
