#pragma once
/// \file
/// What runs on an NVIDIA GPU: the context `Cuda` and every operation's overload for it.
///
/// In a .cu file alone, this is all kernels, and what a program calls of them is compiled with it. With BLACKMAMBA_PRECOMPILED
/// defined, as whoever links blackmamba::precompiled has it, it is declarations: quick, and enough for a C++ compiler too.

#include <blackmamba/core/cuda/fault.cuh>
#include <blackmamba/core/cuda/graph.cuh>
#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/core/cuda/tensor.cuh>
#include <blackmamba/verify/placement.cuh>

#if defined(BLACKMAMBA_PRECOMPILED)
#include <blackmamba/ops/cuda_operations.cuh>
#elif defined(__CUDACC__)
#include <blackmamba/ops/accumulate/cuda.cuh>
#include <blackmamba/ops/activation/backward_cuda.cuh>
#include <blackmamba/ops/activation/cuda.cuh>
#include <blackmamba/ops/adamw/cuda.cuh>
#include <blackmamba/ops/add/cuda.cuh>
#include <blackmamba/ops/causal_conv1d/backward_cuda.cuh>
#include <blackmamba/ops/causal_conv1d/cuda.cuh>
#include <blackmamba/ops/causal_conv1d_step/cuda.cuh>
#include <blackmamba/ops/convert/cuda.cuh>
#include <blackmamba/ops/cross_entropy/backward_cuda.cuh>
#include <blackmamba/ops/cross_entropy/cuda.cuh>
#include <blackmamba/ops/decay/backward_cuda.cuh>
#include <blackmamba/ops/decay/cuda.cuh>
#include <blackmamba/ops/dispatch/backward_cuda.cuh>
#include <blackmamba/ops/dispatch/cuda.cuh>
#include <blackmamba/ops/dispatch/load_cuda.cuh>
#include <blackmamba/ops/embedding/backward_cuda.cuh>
#include <blackmamba/ops/embedding/cuda.cuh>
#include <blackmamba/ops/expand_heads/backward_cuda.cuh>
#include <blackmamba/ops/expand_heads/cuda.cuh>
#include <blackmamba/ops/expert_mlp/backward_cuda.cuh>
#include <blackmamba/ops/expert_mlp/cuda.cuh>
#include <blackmamba/ops/layer_norm/backward_cuda.cuh>
#include <blackmamba/ops/layer_norm/cuda.cuh>
#include <blackmamba/ops/linear/backward_cuda.cuh>
#include <blackmamba/ops/linear/cuda.cuh>
#include <blackmamba/ops/loss_sum/cuda.cuh>
#include <blackmamba/ops/mix_experts/cuda.cuh>
#include <blackmamba/ops/projected_scan_step/cuda.cuh>
#include <blackmamba/ops/rms_norm/backward_cuda.cuh>
#include <blackmamba/ops/rms_norm/cuda.cuh>
#include <blackmamba/ops/route/backward_cuda.cuh>
#include <blackmamba/ops/route/capacity_cuda.cuh>
#include <blackmamba/ops/route/cuda.cuh>
#include <blackmamba/ops/route/losses_cuda.cuh>
#include <blackmamba/ops/route/threshold_cuda.cuh>
#include <blackmamba/ops/sample/cuda.cuh>
#include <blackmamba/ops/selective_scan/backward_cuda.cuh>
#include <blackmamba/ops/selective_scan/cuda.cuh>
#include <blackmamba/ops/selective_scan_step/cuda.cuh>
#include <blackmamba/ops/sinkhorn/cuda.cuh>
#include <blackmamba/ops/softmax/cuda.cuh>
#include <blackmamba/ops/sum_squares/cuda.cuh>
#include <blackmamba/ops/top_k/cuda.cuh>
#else
#error \
    "<blackmamba/cuda.cuh> in a file that nvcc does not compile: link blackmamba::precompiled, which defines BLACKMAMBA_PRECOMPILED"
#endif
