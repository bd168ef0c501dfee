#include <blackmamba/verify/problems/layer_norm.hpp>
#include <blackmamba/verify/problems/norm_backward.hpp>
#include <blackmamba/verify/problems/rms_norm.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: norms hold to the table on every context, for every scalar and awkward shape", T, float, double, half,
                   bf16) {
  test::check_contexts<RmsNormProblem, T>();
  test::check_contexts<LayerNormProblem, T>();
  test::check_contexts<RmsNormBackwardProblem, T>();
  test::check_contexts<LayerNormBackwardProblem, T>();
}

TEST_CASE_TEMPLATE("verify: norms run with correctly rounded storage around exact arithmetic", T, bf16, half, float) {
  test::check_exact<RmsNormProblem, T>();
  test::check_exact<LayerNormProblem, T>();
  test::check_exact<RmsNormBackwardProblem, T>();
  test::check_exact<LayerNormBackwardProblem, T>();
}
