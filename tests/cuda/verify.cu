// The public part checks an operation on a GPU, or a kernel in its place, with one call.

#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/selective_scan.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;
using verify::SelectiveScanProblem;
using verify::SelectiveScanStepProblem;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

/// A context that replaces one kernel and keeps the rest.
struct Forgetful : Cuda {
  Forgetful() = default;
};
template <Scalar T>
void selective_scan_on(Forgetful const& ctx, SelectiveScanArgs<T> args) {
  args.D = {};
  selective_scan_on(static_cast<Cuda const&>(ctx), args);
}

}  // namespace

GPU_TEST_TEMPLATE("verify: the scan and its step on a GPU are right in one call", T, float, double, blackmamba::half, bf16) {
  expect_right(verify::check<SelectiveScanProblem, T>(Cuda{}));
  expect_right(verify::check<SelectiveScanStepProblem, T>(Cuda{}));
}

GPU_TEST("verify: a scan on a GPU that leaves out D is found") {
  CHECK_FALSE(static_cast<bool>(verify::check<SelectiveScanProblem, float>(Forgetful{})));
}
