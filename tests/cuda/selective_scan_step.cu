#include <blackmamba/cuda.cuh>

#include "cuda/support.cuh"
#include "support/scan_problem.hpp"

using namespace blackmamba;
using Half = blackmamba::half;
using test::ScanOptions;
using test::ScanProblem;
using test::ScanSizes;

namespace {

template <class T>
void check(Cuda const& ctx, ScanSizes const& s, ScanOptions const& options) {
  INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", N ", s.N, ", G ", s.G, ", "), options.describe());
  auto const problem = ScanProblem<T>::make(s, options);
  auto const exact_problem = problem.template in<double>();
  auto const exact = test::run_scan(Reference{}, exact_problem.args());
  auto const u = to_device(ctx, problem.u), delta = to_device(ctx, problem.delta), z = to_device(ctx, problem.z);
  auto const B = to_device(ctx, problem.B), C = to_device(ctx, problem.C);
  auto const D = to_device(ctx, problem.D), bias = to_device(ctx, problem.bias);
  auto const A = to_device(ctx, problem.A);
  Tensor<accumulator_t<T>, 3> zeros{problem.initial.shape()};
  auto const state = to_device(ctx, options.initial ? problem.initial : zeros);
  DeviceTensor<T, 3> const y{ctx, Shape<3>{s.L, s.B, s.D}};
  for (Index t = 0; t < s.L; ++t) {
    SelectiveScanStepArgs<T> a{.u = u.view().transposed(0, 1)[t],
                               .delta = delta.view().transposed(0, 1)[t],
                               .A = A.view(),
                               .B = B.view().transposed(0, 1)[t],
                               .C = C.view().transposed(0, 1)[t],
                               .delta_softplus = options.softplus,
                               .state = state,
                               .y = y.view()[t]};
    if (options.D) a.D = D.view();
    if (options.z) a.z = z.view().transposed(0, 1)[t];
    if (options.bias) a.delta_bias = bias.view();
    selective_scan_step(ctx, a);
  }
  auto const got = to_host(ctx, y);
  CHECK_CLOSE(verify::compare(got.view().transposed(0, 1), exact.y.view(), problem.cost()));
  CHECK_CLOSE(verify::compare(to_host(ctx, state).view(), exact.last.view(), problem.cost()));
}

}  // namespace

GPU_TEST_TEMPLATE("selective_scan_step on a GPU: L steps equal one forward of the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  for (int bits = 0; bits < 32; ++bits) check<T>(ctx, {2, 4, 10, 16, 1}, ScanOptions::from_bits(bits));
  for (ScanSizes const& s : {ScanSizes{0, 1, 4, 2, 1}, ScanSizes{2, 2, 0, 4, 1}, ScanSizes{1, 3, 6, 0, 1}, ScanSizes{1, 3, 1, 1, 1},
                             ScanSizes{3, 2, 33, 17, 3}, ScanSizes{2, 3, 66, 64, 2}, ScanSizes{65, 1, 40, 20, 1}})
    check<T>(ctx, s, ScanOptions{});
}
