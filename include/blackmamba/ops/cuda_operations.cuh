#pragma once
/// \file
/// Every operation that has an overload for `Cuda`, by folder: one list to declare them, where a program links
/// blackmamba::precompiled instead of compiling kernels, and to instantiate them, in that library.
///
///   BLACKMAMBA_CUDA_folder(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)
///     STORAGE(name, Args)      template <Scalar T> void name(Cuda const&, Args<T> const&)   for float, double, half, bf16
///     ACCUMULATOR(name, Args)  the same                                                     for float, double
///     PLAIN(name, Args)        template <std::derived_from<Cuda> Ctx> void name(Ctx const&, Args const&)
///     CONVERSION(name, Args)   template <Scalar From, Scalar To> …                          every pair of the four

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/accumulate/accumulate.hpp>
#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/ops/adamw/adamw.hpp>
#include <blackmamba/ops/adamw/scalars.hpp>
#include <blackmamba/ops/add/add.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>
#include <blackmamba/ops/convert/convert.hpp>
#include <blackmamba/ops/cross_entropy/backward.hpp>
#include <blackmamba/ops/decay/backward.hpp>
#include <blackmamba/ops/dispatch/backward.hpp>
#include <blackmamba/ops/dispatch/dispatch.hpp>
#include <blackmamba/ops/dispatch/load.hpp>
#include <blackmamba/ops/embedding/backward.hpp>
#include <blackmamba/ops/expand_heads/backward.hpp>
#include <blackmamba/ops/expert_mlp/backward.hpp>
#include <blackmamba/ops/expert_mlp/combine.hpp>
#include <blackmamba/ops/layer_norm/backward.hpp>
#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/ops/loss_sum/loss_sum.hpp>
#include <blackmamba/ops/mix_experts/mix_experts.hpp>
#include <blackmamba/ops/projected_scan_step/projected_scan_step.hpp>
#include <blackmamba/ops/rms_norm/backward.hpp>
#include <blackmamba/ops/route/all.hpp>
#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/capacity.hpp>
#include <blackmamba/ops/route/losses.hpp>
#include <blackmamba/ops/route/memory.hpp>
#include <blackmamba/ops/route/plan_report.hpp>
#include <blackmamba/ops/route/route.hpp>
#include <blackmamba/ops/route/threshold.hpp>
#include <blackmamba/ops/sample/advance.hpp>
#include <blackmamba/ops/sample/sample.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>
#include <blackmamba/ops/softmax/softmax.hpp>
#include <blackmamba/ops/sum_squares/sum_squares.hpp>
#include <blackmamba/ops/top_k/top_k.hpp>

#define BLACKMAMBA_CUDA_accumulate(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) ACCUMULATOR(accumulate_on, AccumulateArgs)
#define BLACKMAMBA_CUDA_activation(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(activation_on, ActivationArgs)                                    \
  STORAGE(activation_backward_on, ActivationBackwardArgs)                   \
  STORAGE(gated_unit_on, GatedUnitArgs)                                     \
  STORAGE(gated_unit_backward_on, GatedUnitBackwardArgs)
#define BLACKMAMBA_CUDA_adamw(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(adamw_on, AdamWArgs)                                         \
  PLAIN(adamw_request_on, AdamWRequestArgs)                            \
  ACCUMULATOR(adamw_clip_on, AdamWClipArgs)
#define BLACKMAMBA_CUDA_add(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) STORAGE(add_on, AddArgs)
#define BLACKMAMBA_CUDA_causal_conv1d(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(causal_conv1d_on, CausalConv1dArgs)                                  \
  STORAGE(causal_conv1d_backward_on, CausalConv1dBackwardArgs)
#define BLACKMAMBA_CUDA_causal_conv1d_step(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(causal_conv1d_step_on, CausalConv1dStepArgs)
#define BLACKMAMBA_CUDA_convert(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) CONVERSION(convert_on, ConvertArgs)
#define BLACKMAMBA_CUDA_cross_entropy(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(cross_entropy_on, CrossEntropyArgs)                                  \
  STORAGE(cross_entropy_backward_on, CrossEntropyBackwardArgs)
#define BLACKMAMBA_CUDA_decay(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(decay_on, DecayArgs)                                         \
  STORAGE(decay_backward_on, DecayBackwardArgs)
#define BLACKMAMBA_CUDA_dispatch(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  PLAIN(dispatch_on, DispatchArgs)                                        \
  PLAIN(expert_load_on, ExpertLoadArgs)                                   \
  STORAGE(gather_tokens_on, GatherArgs)                                   \
  STORAGE(gather_tokens_backward_on, GatherBackwardArgs)                  \
  STORAGE(combine_on, CombineArgs)                                        \
  STORAGE(combine_backward_on, CombineBackwardArgs)
#define BLACKMAMBA_CUDA_embedding(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(embedding_on, EmbeddingArgs)                                     \
  STORAGE(embedding_backward_on, EmbeddingBackwardArgs)
#define BLACKMAMBA_CUDA_expand_heads(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(expand_heads_on, ExpandHeadsArgs)                                   \
  STORAGE(expand_heads_backward_on, ExpandHeadsBackwardArgs)
#define BLACKMAMBA_CUDA_expert_mlp(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(expert_mlp_on, ExpertMlpArgs)                                     \
  STORAGE(expert_mlp_combine_on, ExpertMlpCombineArgs)                      \
  STORAGE(expert_mlp_backward_on, ExpertMlpBackwardArgs)
#define BLACKMAMBA_CUDA_layer_norm(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(layer_norm_on, LayerNormArgs)                                     \
  STORAGE(layer_norm_backward_on, LayerNormBackwardArgs)
#define BLACKMAMBA_CUDA_linear(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(linear_on, LinearArgs)                                        \
  STORAGE(linear_backward_on, LinearBackwardArgs)
#define BLACKMAMBA_CUDA_loss_sum(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) ACCUMULATOR(loss_sum_on, LossSumArgs)
#define BLACKMAMBA_CUDA_mix_experts(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) STORAGE(mix_experts_on, MixExpertsArgs)
#define BLACKMAMBA_CUDA_projected_scan_step(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(projected_scan_step_on, ProjectedScanStepArgs)
#define BLACKMAMBA_CUDA_rms_norm(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(rms_norm_on, RmsNormArgs)                                       \
  STORAGE(rms_norm_backward_on, RmsNormBackwardArgs)
#define BLACKMAMBA_CUDA_route(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(route_top1_sigmoid_on, RouteArgs)                            \
  STORAGE(route_plan_sigmoid_on, RoutePlanArgs)                        \
  STORAGE(route_top_k_softmax_on, RouteArgs)                           \
  STORAGE(route_positive_on, RoutePositiveArgs)                        \
  PLAIN(route_all_on, RouteAllArgs)                                    \
  PLAIN(route_draw_on, RouteDrawArgs)                                  \
  ACCUMULATOR(route_choose_on, RouteChooseArgs)                        \
  STORAGE(route_scores_on, RouteScoresArgs)                            \
  STORAGE(route_gate_on, RouteGateArgs)                                \
  STORAGE(route_memory_on, RouteMemoryArgs)                            \
  ACCUMULATOR(route_blend_on, RouteBlendArgs)                          \
  PLAIN(plan_report_on, PlanReportArgs)                                \
  ACCUMULATOR(route_expert_choice_on, ExpertChoiceArgs)                \
  ACCUMULATOR(route_threshold_on, RouteThresholdArgs)                  \
  ACCUMULATOR(balance_thresholds_on, BalanceThresholdsArgs)            \
  PLAIN(limit_capacity_on, LimitCapacityArgs)                          \
  STORAGE(route_top1_sigmoid_backward_on, RouteBackwardArgs)           \
  STORAGE(route_plan_sigmoid_backward_on, RouteBackwardArgs)           \
  STORAGE(route_top_k_softmax_backward_on, RouteBackwardArgs)          \
  STORAGE(route_gate_backward_on, RouteGateBackwardArgs)               \
  STORAGE(balance_loss_on, BalanceLossArgs)                            \
  STORAGE(router_z_loss_on, RouterZLossArgs)                           \
  STORAGE(sparsity_loss_on, SparsityLossArgs)
#define BLACKMAMBA_CUDA_sample(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(sample_on, SampleArgs)                                        \
  PLAIN(advance_sampling_on, AdvanceSamplingArgs)
#define BLACKMAMBA_CUDA_selective_scan(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(selective_scan_on, SelectiveScanArgs)                                 \
  STORAGE(selective_scan_backward_on, SelectiveScanBackwardArgs)
#define BLACKMAMBA_CUDA_selective_scan_step(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(selective_scan_step_on, SelectiveScanStepArgs)
#define BLACKMAMBA_CUDA_sinkhorn(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(sinkhorn_on, SinkhornArgs)                                      \
  STORAGE(sinkhorn_log_on, SinkhornLogArgs)
#define BLACKMAMBA_CUDA_softmax(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
  STORAGE(softmax_on, SoftmaxArgs)                                       \
  STORAGE(log_softmax_on, SoftmaxArgs)
#define BLACKMAMBA_CUDA_sum_squares(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) STORAGE(sum_squares_on, SumSquaresArgs)
#define BLACKMAMBA_CUDA_top_k(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) STORAGE(top_k_on, TopKArgs)

#define BLACKMAMBA_CUDA_OPERATIONS(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                                                        \
  BLACKMAMBA_CUDA_accumulate(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_activation(                                  \
      STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_adamw(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                      \
      BLACKMAMBA_CUDA_add(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_causal_conv1d(                                  \
          STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_causal_conv1d_step(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)     \
          BLACKMAMBA_CUDA_convert(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_cross_entropy(                          \
              STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_decay(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)              \
              BLACKMAMBA_CUDA_dispatch(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_embedding(                         \
                  STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_expand_heads(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)   \
                  BLACKMAMBA_CUDA_expert_mlp(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_layer_norm(                  \
                      STORAGE, ACCUMULATOR, PLAIN, CONVERSION) BLACKMAMBA_CUDA_linear(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)     \
                      BLACKMAMBA_CUDA_loss_sum(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                                            \
                          BLACKMAMBA_CUDA_mix_experts(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                                     \
                              BLACKMAMBA_CUDA_projected_scan_step(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                         \
                                  BLACKMAMBA_CUDA_rms_norm(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                                \
                                      BLACKMAMBA_CUDA_route(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                               \
                                          BLACKMAMBA_CUDA_sample(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)                          \
                                              BLACKMAMBA_CUDA_selective_scan(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)              \
                                                  BLACKMAMBA_CUDA_selective_scan_step(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)     \
                                                      BLACKMAMBA_CUDA_sinkhorn(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)            \
                                                          BLACKMAMBA_CUDA_softmax(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)         \
                                                              BLACKMAMBA_CUDA_sum_squares(STORAGE, ACCUMULATOR, PLAIN, CONVERSION) \
                                                                  BLACKMAMBA_CUDA_top_k(STORAGE, ACCUMULATOR, PLAIN, CONVERSION)

#define BLACKMAMBA_DECLARE_TEMPLATE(name, Args) \
  template <Scalar T>                           \
  void name(Cuda const&, Args<T> const&);
#define BLACKMAMBA_DECLARE_PLAIN(name, Args) \
  template <std::derived_from<Cuda> Ctx>     \
  void name(Ctx const&, Args const&);
#define BLACKMAMBA_DECLARE_CONVERSION(name, Args) \
  template <Scalar From, Scalar To>               \
  void name(Cuda const&, Args<From, To> const&);

// KEYWORD: extern, or nothing.
#define BLACKMAMBA_FOR_ACCUMULATORS(KEYWORD, name, Args)              \
  KEYWORD template void name<float>(Cuda const&, Args<float> const&); \
  KEYWORD template void name<double>(Cuda const&, Args<double> const&);
#define BLACKMAMBA_FOR_STORAGE(KEYWORD, name, Args)                 \
  BLACKMAMBA_FOR_ACCUMULATORS(KEYWORD, name, Args)                  \
  KEYWORD template void name<half>(Cuda const&, Args<half> const&); \
  KEYWORD template void name<bf16>(Cuda const&, Args<bf16> const&);
#define BLACKMAMBA_FOR_PLAIN(KEYWORD, name, Args) KEYWORD template void name<Cuda>(Cuda const&, Args const&);
#define BLACKMAMBA_FOR_CONVERSION_FROM(KEYWORD, name, Args, From)                   \
  KEYWORD template void name<From, float>(Cuda const&, Args<From, float> const&);   \
  KEYWORD template void name<From, double>(Cuda const&, Args<From, double> const&); \
  KEYWORD template void name<From, half>(Cuda const&, Args<From, half> const&);     \
  KEYWORD template void name<From, bf16>(Cuda const&, Args<From, bf16> const&);
#define BLACKMAMBA_FOR_CONVERSION(KEYWORD, name, Args)        \
  BLACKMAMBA_FOR_CONVERSION_FROM(KEYWORD, name, Args, float)  \
  BLACKMAMBA_FOR_CONVERSION_FROM(KEYWORD, name, Args, double) \
  BLACKMAMBA_FOR_CONVERSION_FROM(KEYWORD, name, Args, half)   \
  BLACKMAMBA_FOR_CONVERSION_FROM(KEYWORD, name, Args, bf16)

#define BLACKMAMBA_EXTERN_ACCUMULATOR(name, Args) BLACKMAMBA_FOR_ACCUMULATORS(extern, name, Args)
#define BLACKMAMBA_EXTERN_STORAGE(name, Args) BLACKMAMBA_FOR_STORAGE(extern, name, Args)
#define BLACKMAMBA_EXTERN_PLAIN(name, Args) BLACKMAMBA_FOR_PLAIN(extern, name, Args)
#define BLACKMAMBA_EXTERN_CONVERSION(name, Args) BLACKMAMBA_FOR_CONVERSION(extern, name, Args)
#define BLACKMAMBA_INSTANTIATE_ACCUMULATOR(name, Args) BLACKMAMBA_FOR_ACCUMULATORS(, name, Args)
#define BLACKMAMBA_INSTANTIATE_STORAGE(name, Args) BLACKMAMBA_FOR_STORAGE(, name, Args)
#define BLACKMAMBA_INSTANTIATE_PLAIN(name, Args) BLACKMAMBA_FOR_PLAIN(, name, Args)
#define BLACKMAMBA_INSTANTIATE_CONVERSION(name, Args) BLACKMAMBA_FOR_CONVERSION(, name, Args)

namespace blackmamba {

BLACKMAMBA_CUDA_OPERATIONS(BLACKMAMBA_DECLARE_TEMPLATE, BLACKMAMBA_DECLARE_TEMPLATE, BLACKMAMBA_DECLARE_PLAIN,
                           BLACKMAMBA_DECLARE_CONVERSION)

#if defined(BLACKMAMBA_PRECOMPILED)
BLACKMAMBA_CUDA_OPERATIONS(BLACKMAMBA_EXTERN_STORAGE, BLACKMAMBA_EXTERN_ACCUMULATOR, BLACKMAMBA_EXTERN_PLAIN,
                           BLACKMAMBA_EXTERN_CONVERSION)
#endif

}  // namespace blackmamba
