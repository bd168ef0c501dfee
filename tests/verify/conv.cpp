#include <blackmamba/verify/problems/causal_conv1d_backward.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: convolutions hold to the table on every context, for every scalar and awkward shape", T, float, double,
                   half, bf16) {
  test::check_contexts<CausalConv1dProblem, T>();
  test::check_contexts<CausalConv1dStepProblem, T>();
  test::check_contexts<CausalConv1dBackwardProblem, T>();
}

TEST_CASE_TEMPLATE("verify: convolutions run with correctly rounded storage around exact arithmetic", T, bf16, half, float) {
  test::check_exact<CausalConv1dProblem, T>();
  test::check_exact<CausalConv1dStepProblem, T>();
  test::check_exact<CausalConv1dBackwardProblem, T>();
}
