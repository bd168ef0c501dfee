#include <blackmamba/verify/problems/route.hpp>

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
