#pragma once
/// \file
/// Every operation that has an overload for `Cuda`, by folder: one list to declare them, where a program links
/// blackmamba::precompiled instead of compiling kernels, and to instantiate them, in that library.
///
///   BLACKMAMBA_CUDA_folder(STORAGE, ACCUMULATOR, PLAIN)
///     STORAGE(name, Args)      template <Scalar T> void name(Cuda const&, Args<T> const&)   for float, double, half, bf16
///     ACCUMULATOR(name, Args)  the same                                                     for float, double
///     PLAIN(name, Args)        template <std::derived_from<Cuda> Ctx> void name(Ctx const&, Args const&)

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/accumulate/accumulate.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>
#include <blackmamba/ops/layer_norm/backward.hpp>
#include <blackmamba/ops/loss_sum/loss_sum.hpp>
#include <blackmamba/ops/rms_norm/backward.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

#define BLACKMAMBA_CUDA_accumulate(STORAGE, ACCUMULATOR, PLAIN) ACCUMULATOR(accumulate_on, AccumulateArgs)
#define BLACKMAMBA_CUDA_causal_conv1d(STORAGE, ACCUMULATOR, PLAIN) \
  STORAGE(causal_conv1d_on, CausalConv1dArgs)                      \
  STORAGE(causal_conv1d_backward_on, CausalConv1dBackwardArgs)
#define BLACKMAMBA_CUDA_causal_conv1d_step(STORAGE, ACCUMULATOR, PLAIN) STORAGE(causal_conv1d_step_on, CausalConv1dStepArgs)
#define BLACKMAMBA_CUDA_layer_norm(STORAGE, ACCUMULATOR, PLAIN) \
  STORAGE(layer_norm_on, LayerNormArgs)                         \
  STORAGE(layer_norm_backward_on, LayerNormBackwardArgs)
#define BLACKMAMBA_CUDA_loss_sum(STORAGE, ACCUMULATOR, PLAIN) ACCUMULATOR(loss_sum_on, LossSumArgs)
#define BLACKMAMBA_CUDA_rms_norm(STORAGE, ACCUMULATOR, PLAIN) \
  STORAGE(rms_norm_on, RmsNormArgs)                           \
  STORAGE(rms_norm_backward_on, RmsNormBackwardArgs)
#define BLACKMAMBA_CUDA_selective_scan(STORAGE, ACCUMULATOR, PLAIN) \
  STORAGE(selective_scan_on, SelectiveScanArgs)                     \
  STORAGE(selective_scan_backward_on, SelectiveScanBackwardArgs)
#define BLACKMAMBA_CUDA_selective_scan_step(STORAGE, ACCUMULATOR, PLAIN) STORAGE(selective_scan_step_on, SelectiveScanStepArgs)

#define BLACKMAMBA_CUDA_OPERATIONS(STORAGE, ACCUMULATOR, PLAIN)                                                               \
  BLACKMAMBA_CUDA_accumulate(STORAGE, ACCUMULATOR, PLAIN) BLACKMAMBA_CUDA_causal_conv1d(STORAGE, ACCUMULATOR, PLAIN)          \
      BLACKMAMBA_CUDA_causal_conv1d_step(STORAGE, ACCUMULATOR, PLAIN) BLACKMAMBA_CUDA_layer_norm(STORAGE, ACCUMULATOR, PLAIN) \
          BLACKMAMBA_CUDA_loss_sum(STORAGE, ACCUMULATOR, PLAIN) BLACKMAMBA_CUDA_rms_norm(STORAGE, ACCUMULATOR, PLAIN)         \
              BLACKMAMBA_CUDA_selective_scan(STORAGE, ACCUMULATOR, PLAIN)                                                     \
                  BLACKMAMBA_CUDA_selective_scan_step(STORAGE, ACCUMULATOR, PLAIN)

#define BLACKMAMBA_DECLARE_TEMPLATE(name, Args) \
  template <Scalar T>                           \
  void name(Cuda const&, Args<T> const&);
#define BLACKMAMBA_DECLARE_PLAIN(name, Args) \
  template <std::derived_from<Cuda> Ctx>     \
  void name(Ctx const&, Args const&);

#define BLACKMAMBA_EXTERN_ACCUMULATOR(name, Args)                    \
  extern template void name<float>(Cuda const&, Args<float> const&); \
  extern template void name<double>(Cuda const&, Args<double> const&);
#define BLACKMAMBA_EXTERN_STORAGE(name, Args)                      \
  BLACKMAMBA_EXTERN_ACCUMULATOR(name, Args)                        \
  extern template void name<half>(Cuda const&, Args<half> const&); \
  extern template void name<bf16>(Cuda const&, Args<bf16> const&);
#define BLACKMAMBA_EXTERN_PLAIN(name, Args) extern template void name<Cuda>(Cuda const&, Args const&);

#define BLACKMAMBA_INSTANTIATE_ACCUMULATOR(name, Args)        \
  template void name<float>(Cuda const&, Args<float> const&); \
  template void name<double>(Cuda const&, Args<double> const&);
#define BLACKMAMBA_INSTANTIATE_STORAGE(name, Args)          \
  BLACKMAMBA_INSTANTIATE_ACCUMULATOR(name, Args)            \
  template void name<half>(Cuda const&, Args<half> const&); \
  template void name<bf16>(Cuda const&, Args<bf16> const&);
#define BLACKMAMBA_INSTANTIATE_PLAIN(name, Args) template void name<Cuda>(Cuda const&, Args const&);

namespace blackmamba {

BLACKMAMBA_CUDA_OPERATIONS(BLACKMAMBA_DECLARE_TEMPLATE, BLACKMAMBA_DECLARE_TEMPLATE, BLACKMAMBA_DECLARE_PLAIN)

#if defined(BLACKMAMBA_PRECOMPILED)
BLACKMAMBA_CUDA_OPERATIONS(BLACKMAMBA_EXTERN_STORAGE, BLACKMAMBA_EXTERN_ACCUMULATOR, BLACKMAMBA_EXTERN_PLAIN)
#endif

}  // namespace blackmamba
