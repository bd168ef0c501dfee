#include <blackmamba/verify/problems/activation.hpp>
#include <blackmamba/verify/problems/softmax.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: non-linearities and softmax hold to the table on every context, for every scalar and awkward shape", T,
                   float, double, half, bf16) {
  test::check_contexts<ActivationProblem, T>();
  test::check_contexts<GatedUnitProblem, T>();
  test::check_contexts<SoftmaxProblem, T>();
  test::check_contexts<LogSoftmaxProblem, T>();
  test::check_contexts<CrossEntropyProblem, T>();
}

TEST_CASE_TEMPLATE("verify: non-linearities and softmax run with correctly rounded storage around exact arithmetic", T, bf16, half,
                   float) {
  test::check_exact<ActivationProblem, T>();
  test::check_exact<GatedUnitProblem, T>();
  test::check_exact<SoftmaxProblem, T>();
  test::check_exact<LogSoftmaxProblem, T>();
  test::check_exact<CrossEntropyProblem, T>();
}
