#pragma once
/// \file
/// The whole library. Each header also stands alone: include less where compile time counts (docs/design/build.md has the costs).
/// Where nlohmann-json is not installed, this is the library without io/.

#include <blackmamba/core/arena.hpp>
#include <blackmamba/core/config.hpp>
#include <blackmamba/core/context.hpp>
#include <blackmamba/core/dual.hpp>
#include <blackmamba/core/eigen.hpp>
#include <blackmamba/core/error.hpp>
#include <blackmamba/core/math.hpp>
#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/random.hpp>
#include <blackmamba/core/scalar.hpp>
#include <blackmamba/core/sequences.hpp>
#include <blackmamba/core/shape.hpp>
#include <blackmamba/core/simd.hpp>
#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/core/view.hpp>

#include <blackmamba/ops/activation/activation.hpp>
#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/ops/adamw/adamw.hpp>
#include <blackmamba/ops/add/add.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>
#include <blackmamba/ops/cross_entropy/backward.hpp>
#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>
#include <blackmamba/ops/decay/backward.hpp>
#include <blackmamba/ops/decay/decay.hpp>
#include <blackmamba/ops/dispatch/backward.hpp>
#include <blackmamba/ops/dispatch/dispatch.hpp>
#include <blackmamba/ops/embedding/backward.hpp>
#include <blackmamba/ops/embedding/embedding.hpp>
#include <blackmamba/ops/expand_heads/backward.hpp>
#include <blackmamba/ops/expand_heads/expand_heads.hpp>
#include <blackmamba/ops/expert_mlp/backward.hpp>
#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>
#include <blackmamba/ops/layer_norm/backward.hpp>
#include <blackmamba/ops/layer_norm/layer_norm.hpp>
#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/ops/linear/linear.hpp>
#include <blackmamba/ops/rms_norm/backward.hpp>
#include <blackmamba/ops/rms_norm/rms_norm.hpp>
#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/route.hpp>
#include <blackmamba/ops/sample/sample.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>
#include <blackmamba/ops/selective_scan/selective_scan.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>
#include <blackmamba/ops/softmax/softmax.hpp>
#include <blackmamba/ops/sum_squares/sum_squares.hpp>
#include <blackmamba/ops/top_k/top_k.hpp>

#include <blackmamba/layers/concepts.hpp>
#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/mamba.hpp>
#include <blackmamba/layers/mamba2.hpp>
#include <blackmamba/layers/mlp.hpp>
#include <blackmamba/layers/moe.hpp>
#include <blackmamba/layers/norm.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/residual.hpp>
#include <blackmamba/layers/routers/options.hpp>
#include <blackmamba/layers/routers/router.hpp>
#include <blackmamba/layers/routers/sinkhorn.hpp>
#include <blackmamba/layers/routers/top1_sigmoid.hpp>
#include <blackmamba/layers/routers/top_k_softmax.hpp>
#include <blackmamba/layers/walk.hpp>

#include <blackmamba/model/count.hpp>
#include <blackmamba/model/model.hpp>
#include <blackmamba/model/networks.hpp>
#include <blackmamba/model/parameters.hpp>
#include <blackmamba/model/repeat.hpp>
#include <blackmamba/model/stack.hpp>

#if __has_include(<nlohmann/json.hpp>)
#include <blackmamba/io/atomic_file.hpp>
#include <blackmamba/io/config.hpp>
#include <blackmamba/io/config_reader.hpp>
#include <blackmamba/io/config_writer.hpp>
#include <blackmamba/io/dtype.hpp>
#include <blackmamba/io/json.hpp>
#include <blackmamba/io/load.hpp>
#include <blackmamba/io/mapped_file.hpp>
#include <blackmamba/io/model_config.hpp>
#include <blackmamba/io/pickle.hpp>
#include <blackmamba/io/presets.hpp>
#include <blackmamba/io/safetensors.hpp>
#include <blackmamba/io/safetensors_writer.hpp>
#include <blackmamba/io/save.hpp>
#include <blackmamba/io/tensor_file.hpp>
#include <blackmamba/io/tensor_info.hpp>
#include <blackmamba/io/torch_checkpoint.hpp>
#include <blackmamba/io/zip.hpp>
#endif

#include <blackmamba/generate/generate.hpp>
#include <blackmamba/generate/options.hpp>
#include <blackmamba/generate/score.hpp>

#include <blackmamba/train/specialisation.hpp>
#include <blackmamba/train/telemetry.hpp>

#include <blackmamba/verify/check.hpp>
#include <blackmamba/verify/compare.hpp>
#include <blackmamba/verify/exact.hpp>
#include <blackmamba/verify/inputs.hpp>
#include <blackmamba/verify/placement.hpp>
#include <blackmamba/verify/problems/activation.hpp>
#include <blackmamba/verify/problems/causal_conv1d.hpp>
#include <blackmamba/verify/problems/expert_mlp.hpp>
#include <blackmamba/verify/problems/layer_norm.hpp>
#include <blackmamba/verify/problems/linear.hpp>
#include <blackmamba/verify/problems/rms_norm.hpp>
#include <blackmamba/verify/problems/route.hpp>
#include <blackmamba/verify/problems/selective_scan.hpp>
#include <blackmamba/verify/problems/softmax.hpp>
#include <blackmamba/verify/report.hpp>
#include <blackmamba/verify/tolerance.hpp>

#if defined(__CUDACC__)
#include <blackmamba/core/cuda/tensor.cuh>
#include <blackmamba/ops/selective_scan/cuda.cuh>
#include <blackmamba/ops/selective_scan_step/cuda.cuh>
#include <blackmamba/verify/placement.cuh>
#endif
