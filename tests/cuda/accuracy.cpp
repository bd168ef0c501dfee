#include <blackmamba/cuda.cuh>

#include "cuda/support.cuh"
#include "support/accuracy.hpp"

GPU_TEST("verify: in float32 on a GPU every output is within 1e-5 of float64, every gradient within 1e-4") {
  test::check_float32(blackmamba::Cuda{});
}
