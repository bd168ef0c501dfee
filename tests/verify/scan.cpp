#include <blackmamba/verify/problems/selective_scan_backward.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: scans hold to the table on every context, for every scalar and awkward shape", T, float, double, half,
                   bf16) {
  test::check_contexts<SelectiveScanProblem, T>();
  test::check_contexts<SelectiveScanStepProblem, T>();
  test::check_contexts<ProjectedScanStepProblem, T>();
  test::check_contexts<SelectiveScanBackwardProblem, T>();
}

TEST_CASE_TEMPLATE("verify: scans run with correctly rounded storage around exact arithmetic", T, bf16, half, float) {
  test::check_exact<SelectiveScanProblem, T>();
  test::check_exact<SelectiveScanStepProblem, T>();
  test::check_exact<ProjectedScanStepProblem, T>();
  test::check_exact<SelectiveScanBackwardProblem, T>();
}
