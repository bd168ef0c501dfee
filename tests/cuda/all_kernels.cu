// Every kernel for every architecture that is supported: this compiles where there is no GPU too.

#include <blackmamba/ops/causal_conv1d/backward_cuda.cuh>
#include <blackmamba/ops/causal_conv1d/cuda.cuh>
#include <blackmamba/ops/causal_conv1d_step/cuda.cuh>
#include <blackmamba/ops/layer_norm/backward_cuda.cuh>
#include <blackmamba/ops/layer_norm/cuda.cuh>
#include <blackmamba/ops/rms_norm/backward_cuda.cuh>
#include <blackmamba/ops/rms_norm/cuda.cuh>
#include <blackmamba/ops/selective_scan/backward_cuda.cuh>
#include <blackmamba/ops/selective_scan/cuda.cuh>
#include <blackmamba/ops/selective_scan_step/cuda.cuh>

#include "cuda/support.cuh"

namespace blackmamba {

#define BLACKMAMBA_INSTANTIATE(T)                                                                \
  template void causal_conv1d_on<T>(Cuda const&, CausalConv1dArgs<T> const&);                    \
  template void causal_conv1d_backward_on<T>(Cuda const&, CausalConv1dBackwardArgs<T> const&);   \
  template void causal_conv1d_step_on<T>(Cuda const&, CausalConv1dStepArgs<T> const&);           \
  template void layer_norm_on<T>(Cuda const&, LayerNormArgs<T> const&);                          \
  template void layer_norm_backward_on<T>(Cuda const&, LayerNormBackwardArgs<T> const&);         \
  template void rms_norm_on<T>(Cuda const&, RmsNormArgs<T> const&);                              \
  template void rms_norm_backward_on<T>(Cuda const&, RmsNormBackwardArgs<T> const&);             \
  template void selective_scan_on<T>(Cuda const&, SelectiveScanArgs<T> const&);                  \
  template void selective_scan_backward_on<T>(Cuda const&, SelectiveScanBackwardArgs<T> const&); \
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
