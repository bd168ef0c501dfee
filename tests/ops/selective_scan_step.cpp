#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

#include "support/scan_problem.hpp"

using namespace blackmamba;
using test::run_scan;
using test::ScanOptions;
using test::ScanProblem;
using test::ScanResult;
using test::ScanSizes;

namespace {

template <class T>
SelectiveScanStepArgs<T> step_args(SelectiveScanArgs<T> const& a, Index t) {
  auto const at = [t](auto view) { return view.transposed(0, 1)[t]; };
  SelectiveScanStepArgs<T> s{.u = at(a.u),
                             .delta = at(a.delta),
                             .A = a.A,
                             .B = at(a.B),
                             .C = at(a.C),
                             .D = a.D,
                             .delta_bias = a.delta_bias,
                             .delta_softplus = a.delta_softplus,
                             .y = at(a.y)};
  if (a.z) s.z = at(a.z);
  return s;
}

/// The whole sequence, one step at a time.
template <class T, class Ctx>
ScanResult<T> run_steps(Ctx const& ctx, ScanProblem<T> const& problem) {
  ScanResult<T> out{Tensor<T, 3>{problem.u.shape()}, problem.initial.clone()};
  if (!problem.options.initial)
    for (auto& x : out.last) x = accumulator_t<T>(0);
  auto args = problem.args();
  args.y = out.y;
  for (Index t = 0; t < problem.sizes.L; ++t) {
    auto step = step_args(args, t);
    step.state = out.last;
    selective_scan_step(ctx, step);
  }
  return out;
}

template <class T>
void check(ScanSizes const& s, ScanOptions const& options) {
  INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", N ", s.N, ", G ", s.G, ", "), options.describe());
  auto const problem = ScanProblem<T>::make(s, options);
  auto const exact = run_scan(Reference{}, problem.template in<double>().args());
  auto const plain = run_steps(Reference{}, problem);
  CHECK_CLOSE(verify::compare(plain.y.view(), exact.y.view(), problem.cost()));
  CHECK_CLOSE(verify::compare(plain.last.view(), exact.last.view(), problem.cost()));
  auto const one = run_steps(Cpu{1}, problem), two = run_steps(Cpu{2}, problem);
  CHECK_CLOSE(verify::compare(one.y.view(), exact.y.view(), problem.cost()));
  CHECK_CLOSE(verify::compare(one.last.view(), exact.last.view(), problem.cost()));
  for (Index i = 0; i < one.y.size(); ++i) CHECK(one.y.data()[i] == two.y.data()[i]);
  for (Index i = 0; i < one.last.size(); ++i) CHECK(one.last.data()[i] == two.last.data()[i]);
}

}  // namespace

TEST_CASE_TEMPLATE("selective_scan_step: L single steps equal one forward for every scalar and option", T, float, double, half,
                   bf16) {
  for (int bits = 0; bits < 32; ++bits) check<T>({2, 4, 9, 3, 1}, ScanOptions::from_bits(bits));
}

TEST_CASE_TEMPLATE("selective_scan_step: every shape agrees with the double reference, and one thread with two", T, float, double,
                   half, bf16) {
  for (ScanSizes const& s : {ScanSizes{0, 1, 4, 2, 1},
                             {2, 3, 0, 4, 1},
                             {1, 4, 5, 0, 1},
                             {1, 1, 1, 1, 1},
                             {1, 9, 8, 16, 2},
                             {2, 4, 9, 17, 3},
                             {1, 3, 17, 64, 1},
                             {1, 3, 66, 130, 2},
                             {1, 3, 700, 16, 1},
                             {3, 2, 6, 5, 6}})
    check<T>(s, ScanOptions{});
}

TEST_CASE_TEMPLATE("selective_scan_step: y may be u, delta or z, and strided rows change nothing", T, float, half) {
  ScanSizes const s{3, 1, 21, 16, 1};
  auto const problem = ScanProblem<T>::make(s, ScanOptions{});
  auto const on = [&](auto const& ctx) {
    auto const expected = run_steps(ctx, problem);
    auto args = problem.args();
    Tensor<T, 3> y{problem.u.shape()};
    args.y = y;
    for (int which = 0; which < 3; ++which) {
      auto const& source = which == 0 ? problem.u : which == 1 ? problem.delta : problem.z;
      Tensor<T, 2> wide{Shape{s.B, 2 * s.D}};
      for (Index b = 0; b < s.B; ++b)
        for (Index d = 0; d < s.D; ++d) wide(b, d) = source(b, 0, d);
      auto state = problem.initial.clone();
      auto step = step_args(args, 0);
      auto const in_place = wide.view().slice(1, 0, s.D);
      (which == 0 ? step.u : which == 1 ? step.delta : step.z) = in_place;
      step.y = in_place;
      step.state = state;
      selective_scan_step(ctx, step);
      for (Index b = 0; b < s.B; ++b)
        for (Index d = 0; d < s.D; ++d) CHECK(wide(b, d) == expected.y(b, 0, d));
      for (Index i = 0; i < state.size(); ++i) CHECK(state.data()[i] == expected.last.data()[i]);
    }
  };
  on(Reference{});
  on(Cpu{2});
}

TEST_CASE("selective_scan_step: a state with channels innermost takes the reference path and gives its values") {
  ScanSizes const s{2, 1, 9, 4, 1};
  auto const problem = ScanProblem<float>::make(s, ScanOptions{});
  auto const expected = run_steps(Reference{}, problem);
  Tensor<float, 3> y{problem.u.shape()}, state{Shape{s.B, s.N, s.D}};
  for (Index b = 0; b < s.B; ++b)
    for (Index d = 0; d < s.D; ++d)
      for (Index n = 0; n < s.N; ++n) state(b, n, d) = problem.initial(b, d, n);
  auto args = problem.args();
  args.y = y;
  auto step = step_args(args, 0);
  step.state = state.view().transposed(1, 2);
  selective_scan_step(Cpu{2}, step);
  for (Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == expected.y.data()[i]);
  for (Index b = 0; b < s.B; ++b)
    for (Index d = 0; d < s.D; ++d)
      for (Index n = 0; n < s.N; ++n) CHECK(state(b, n, d) == expected.last(b, d, n));
}

TEST_CASE("selective_scan_step: on dual numbers the tangent is the response to the input, in which the step is linear") {
  ScanSizes const s{2, 1, 6, 5, 2};
  auto const problem = ScanProblem<double>::make(s, ScanOptions{.initial = false});
  auto const direction = test::random_tensor<double>(problem.u.shape(), 30);
  auto duals = problem.in<Dual<double>>();
  for (Index i = 0; i < direction.size(); ++i) duals.u.data()[i].tangent = direction.data()[i];
  auto const got = run_steps(Reference{}, duals);
  auto moved = problem.in<double>();
  moved.u = direction.clone();
  auto const response = run_steps(Reference{}, moved);
  Tensor<double, 3> tangent{problem.u.shape()};
  for (Index i = 0; i < tangent.size(); ++i) tangent.data()[i] = got.y.data()[i].tangent;
  CHECK_CLOSE(verify::compare(tangent.view(), response.y.view(), problem.cost()));
}

TEST_CASE("selective_scan_step: arguments that disagree are refused with their numbers") {
  auto const problem = ScanProblem<float>::make({2, 1, 6, 4, 1}, ScanOptions{});
  Tensor<float, 3> y{problem.u.shape()};
  auto args = problem.args();
  args.y = y;
  auto step = step_args(args, 0);
  Tensor<float, 3> state{Shape{Index{2}, Index{6}, Index{5}}};
  step.state = state;
  CHECK_THROWS_WITH_AS(selective_scan_step(Reference{}, step),
                       "selective_scan_step: state has shape (2, 6, 5), u and A asks for (2, 6, 4): extent 2 is 5, not 4",
                       shape_error);
  Tensor<float, 3> B{Shape{Index{2}, Index{4}, Index{4}}};
  step.B = B;
  CHECK_THROWS_WITH_AS(selective_scan_step(Reference{}, step),
                       "selective_scan_step: B has 4 groups, which do not divide the 6 channels of u", shape_error);
}
