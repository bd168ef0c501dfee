#include <blackmamba/verify/problems/dispatch.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: both ends of a mixture of experts hold to the table on every context, for every scalar", T, float,
                   double, half, bf16) {
  test::check_contexts<DispatchProblem, T>();
  test::check_contexts<GatherTokensProblem, T>();
  test::check_contexts<GatherBackwardProblem, T>();
  test::check_contexts<CombineProblem, T>();
  test::check_contexts<CombineBackwardProblem, T>();
}
