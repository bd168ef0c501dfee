#include <blackmamba/verify/problems/expert_mlp_backward.hpp>
#include <blackmamba/verify/problems/linear.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: linear maps and experts hold to the table on every context, for every scalar and awkward shape", T,
                   float, double, half, bf16) {
  test::check_contexts<LinearProblem, T>();
  test::check_contexts<ExpertMlpProblem, T>();
  test::check_contexts<LinearBackwardProblem, T>();
  test::check_contexts<ExpertMlpBackwardProblem, T>();
}

TEST_CASE_TEMPLATE("verify: linear maps and experts run with correctly rounded storage around exact arithmetic", T, bf16, half,
                   float) {
  test::check_exact<LinearProblem, T>();
  test::check_exact<ExpertMlpProblem, T>();
  test::check_exact<LinearBackwardProblem, T>();
  test::check_exact<ExpertMlpBackwardProblem, T>();
}
