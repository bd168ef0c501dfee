#include <blackmamba/verify/problems/route.hpp>
#include <blackmamba/verify/problems/route_gates.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: routing rules hold to the table on every context, for every scalar and awkward shape", T, float, double,
                   half, bf16) {
  test::check_contexts<RouteTop1SigmoidProblem, T>();
  test::check_contexts<RouteTopKSoftmaxProblem, T>();
  test::check_contexts<SinkhornProblem, T>();
  test::check_contexts<SinkhornLogProblem, T>();
}

TEST_CASE_TEMPLATE("verify: routing rules run with correctly rounded storage around exact arithmetic", T, bf16, half, float) {
  test::check_exact<RouteTop1SigmoidProblem, T>();
  test::check_exact<RouteTopKSoftmaxProblem, T>();
  test::check_exact<SinkhornProblem, T>();
  test::check_exact<SinkhornLogProblem, T>();
}

TEST_CASE_TEMPLATE("verify: what routers are made of holds to the table on every context, for every scalar and awkward shape", T,
                   float, double, half, bf16) {
  test::check_contexts<RouteChooseProblem, T>();
  test::check_contexts<RouteDrawProblem, T>();
  test::check_contexts<RouteAllProblem, T>();
  test::check_contexts<RoutePositiveProblem, T>();
  test::check_contexts<RouteScoresProblem, T>();
  test::check_contexts<RouteGateProblem, T>();
  test::check_contexts<RoutePlanSigmoidProblem, T>();
  test::check_contexts<RouteExpertChoiceProblem, T>();
  test::check_contexts<RouteThresholdProblem, T>();
  test::check_contexts<BalanceThresholdsProblem, T>();
  test::check_contexts<RouteMemoryProblem, T>();
  test::check_contexts<RouteBlendProblem, T>();
}

TEST_CASE_TEMPLATE("verify: gradients and losses of routers hold to the table on every context, for every scalar", T, float, double,
                   half, bf16) {
  test::check_contexts<RouteGateBackwardProblem, T>();
  test::check_contexts<RouteTopKSoftmaxBackwardProblem, T>();
  test::check_contexts<RouteTop1SigmoidBackwardProblem, T>();
  test::check_contexts<RoutePlanSigmoidBackwardProblem, T>();
  test::check_contexts<BalanceLossProblem, T>();
  test::check_contexts<RouterZLossProblem, T>();
  test::check_contexts<SparsityLossProblem, T>();
}
