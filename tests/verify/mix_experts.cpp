#include <blackmamba/verify/problems/mix_experts.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: mixtures of experts hold to the table on every context, for every scalar and awkward shape", T, float,
                   double, half, bf16) {
  test::check_contexts<MixExpertsProblem, T>();
}

TEST_CASE_TEMPLATE("verify: mixtures of experts run with correctly rounded storage around exact arithmetic", T, bf16, half, float) {
  test::check_exact<MixExpertsProblem, T>();
}
