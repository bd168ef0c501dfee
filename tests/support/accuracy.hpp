#pragma once
// How far float32 is from float64, operation by operation: the largest error as a share of the largest magnitude of the output. The
// table of tolerances judges each output by its own length; these are the two bounds that hold for all of them.

#include <doctest/doctest.h>

#include <cstdio>

#include <blackmamba/verify/problems/activation.hpp>
#include <blackmamba/verify/problems/activation_backward.hpp>
#include <blackmamba/verify/problems/adamw.hpp>
#include <blackmamba/verify/problems/causal_conv1d_backward.hpp>
#include <blackmamba/verify/problems/cross_entropy_backward.hpp>
#include <blackmamba/verify/problems/dispatch.hpp>
#include <blackmamba/verify/problems/elementwise.hpp>
#include <blackmamba/verify/problems/embedding.hpp>
#include <blackmamba/verify/problems/expert_mlp_backward.hpp>
#include <blackmamba/verify/problems/layer_norm.hpp>
#include <blackmamba/verify/problems/linear.hpp>
#include <blackmamba/verify/problems/norm_backward.hpp>
#include <blackmamba/verify/problems/rms_norm.hpp>
#include <blackmamba/verify/problems/route.hpp>
#include <blackmamba/verify/problems/route_gates.hpp>
#include <blackmamba/verify/problems/routing_rules.hpp>
#include <blackmamba/verify/problems/selective_scan_backward.hpp>
#include <blackmamba/verify/problems/softmax.hpp>
#include <blackmamba/verify/problems/sum_squares.hpp>

namespace test {

/// The awkward sizes of every problem, and sizes like a layer's where sums are long. Prints a line an operation.
template <blackmamba::Context Ctx>
void check_float32(Ctx const& ctx) {
  using namespace blackmamba;
  using namespace blackmamba::verify;
  auto const within = [&]<template <Scalar> class P>(double bound, std::vector<typename P<float>::Size> sizes) {
    auto const awkward = P<float>::sizes();
    sizes.insert(sizes.end(), awkward.begin(), awkward.end());
    auto const report = verify::check<P, float>(ctx, {}, sizes);
    std::printf("%-30s %9.2e of its largest magnitude\n", P<float>::name, report.scaled());
    INFO(P<float>::name);
    CHECK(static_cast<bool>(report));
    CHECK(report.scaled() <= bound);
  };
#define FORWARD(Problem, ...) within.template operator()<Problem>(1e-5, {__VA_ARGS__})
#define BACKWARD(Problem, ...) within.template operator()<Problem>(1e-4, {__VA_ARGS__})
  FORWARD(SelectiveScanProblem, {.batch = 1, .L = 2048, .D = 40, .N = 16});
  BACKWARD(SelectiveScanBackwardProblem, {.batch = 1, .L = 2048, .D = 40, .N = 16});
  FORWARD(SelectiveScanStepProblem);
  FORWARD(ProjectedScanStepProblem, {.batch = 2, .D = 2304, .N = 16, .R = 72});
  FORWARD(CausalConv1dProblem, {.batch = 1, .L = 500, .D = 72});
  BACKWARD(CausalConv1dBackwardProblem, {.batch = 2, .L = 2048, .D = 72});
  FORWARD(CausalConv1dStepProblem);
  FORWARD(RmsNormProblem, {.rows = 5, .D = 1152});
  BACKWARD(RmsNormBackwardProblem, {.rows = 300, .D = 1152});
  FORWARD(LayerNormProblem, {{.rows = 5, .D = 1152}});
  BACKWARD(LayerNormBackwardProblem, {.rows = 300, .D = 1152});
  FORWARD(LinearProblem, {.M = 33, .N = 129, .K = 2304});
  BACKWARD(LinearBackwardProblem, {.M = 300, .N = 65, .K = 129});
  FORWARD(ExpertMlpProblem, {.rows = 19, .E = 3, .D = 1152, .F = 384});
  BACKWARD(ExpertMlpBackwardProblem, {.rows = 200, .E = 2, .D = 256, .F = 384});
  FORWARD(ActivationProblem);
  FORWARD(GatedUnitProblem);
  BACKWARD(ActivationBackwardProblem);
  BACKWARD(GatedUnitBackwardProblem);
  FORWARD(AddProblem);
  FORWARD(DecayProblem);
  BACKWARD(DecayBackwardProblem);
  FORWARD(ExpandHeadsProblem);
  BACKWARD(ExpandHeadsBackwardProblem);
  FORWARD(SumSquaresProblem);
  FORWARD(SoftmaxProblem);
  FORWARD(LogSoftmaxProblem);
  FORWARD(CrossEntropyProblem);
  BACKWARD(CrossEntropyBackwardProblem);
  BACKWARD(EmbeddingBackwardProblem);
  BACKWARD(GatherBackwardProblem);
  FORWARD(CombineProblem);
  BACKWARD(CombineBackwardProblem);
  FORWARD(RouteScoresProblem);
  FORWARD(RouteTop1SigmoidProblem);
  FORWARD(RouteTopKSoftmaxProblem);
  FORWARD(RoutePlanSigmoidProblem);
  FORWARD(RouteGateProblem);
  BACKWARD(RouteGateBackwardProblem);
  BACKWARD(RouteTop1SigmoidBackwardProblem);
  BACKWARD(RouteTopKSoftmaxBackwardProblem);
  FORWARD(SinkhornProblem);
  FORWARD(SinkhornLogProblem);
  FORWARD(BalanceLossProblem);
  FORWARD(RouterZLossProblem);
  FORWARD(SparsityLossProblem);
  FORWARD(AdamWProblem);
#undef FORWARD
#undef BACKWARD
}

}  // namespace test
