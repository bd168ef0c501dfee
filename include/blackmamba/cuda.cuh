#pragma once
/// \file
/// What runs on an NVIDIA GPU: the context `Cuda` and every operation's overload for it.
///
/// In a .cu file alone, this is all kernels, and what a program calls of them is compiled with it. With BLACKMAMBA_PRECOMPILED
/// defined, as whoever links blackmamba::precompiled has it, it is declarations: quick, and enough for a C++ compiler too.

#include <blackmamba/core/cuda/fault.cuh>
#include <blackmamba/core/cuda/graph.cuh>
#include <blackmamba/core/cuda/tensor.cuh>
#include <blackmamba/verify/placement.cuh>

#if defined(BLACKMAMBA_PRECOMPILED)
#include <blackmamba/ops/cuda_operations.cuh>
#elif defined(__CUDACC__)
#include <blackmamba/ops/accumulate/cuda.cuh>
#include <blackmamba/ops/causal_conv1d/backward_cuda.cuh>
#include <blackmamba/ops/causal_conv1d/cuda.cuh>
#include <blackmamba/ops/causal_conv1d_step/cuda.cuh>
#include <blackmamba/ops/layer_norm/backward_cuda.cuh>
#include <blackmamba/ops/layer_norm/cuda.cuh>
#include <blackmamba/ops/loss_sum/cuda.cuh>
#include <blackmamba/ops/rms_norm/backward_cuda.cuh>
#include <blackmamba/ops/rms_norm/cuda.cuh>
#include <blackmamba/ops/selective_scan/backward_cuda.cuh>
#include <blackmamba/ops/selective_scan/cuda.cuh>
#include <blackmamba/ops/selective_scan_step/cuda.cuh>
#else
#error \
    "<blackmamba/cuda.cuh> in a file that nvcc does not compile: link blackmamba::precompiled, which defines BLACKMAMBA_PRECOMPILED"
#endif
