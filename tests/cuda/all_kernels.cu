// Every kernel for every architecture that is supported: this compiles where there is no GPU too.

#include <blackmamba/ops/selective_scan/cuda.cuh>
#include <blackmamba/ops/selective_scan_step/cuda.cuh>

#include "cuda/support.cuh"

namespace blackmamba {

#define BLACKMAMBA_INSTANTIATE(T)                                               \
  template void selective_scan_on<T>(Cuda const&, SelectiveScanArgs<T> const&); \
  template void selective_scan_step_on<T>(Cuda const&, SelectiveScanStepArgs<T> const&);

BLACKMAMBA_INSTANTIATE(float)
BLACKMAMBA_INSTANTIATE(double)
BLACKMAMBA_INSTANTIATE(half)
BLACKMAMBA_INSTANTIATE(bf16)

}  // namespace blackmamba

GPU_TEST("kernels: this program has code for this device") {
  cudaFuncAttributes attributes;
  CHECK(cudaFuncGetAttributes(&attributes, blackmamba::detail::scan_kernel<blackmamba::bf16, true>) == cudaSuccess);
}
