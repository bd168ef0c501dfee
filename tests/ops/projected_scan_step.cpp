#include <blackmamba/ops/linear/linear.hpp>
#include <blackmamba/ops/projected_scan_step/projected_scan_step.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;
using test::random_tensor;

namespace {

/// Arguments of published proportions; rows of dt, B and C are parts of one matrix, as a Mamba block has them.
template <class T>
struct Problem {
  using Acc = accumulator_t<T>;
  Index batch, D, N, R, G = 1;
  Tensor<T, 2> u = random_tensor<T>(Shape{batch, D}, 1), dbc = random_tensor<T>(Shape{batch, R + 2 * G*N}, 2),
               weight = random_tensor<T>(Shape{D, R}, 3, 0.2), A_log = random_tensor<T>(Shape{D, N}, 4),
               z = random_tensor<T>(Shape{batch, D}, 5);
  Tensor<T, 1> skip = random_tensor<T>(Shape{D}, 6), bias = random_tensor<T>(Shape{D}, 7, 0.1);
  Tensor<Acc, 3> initial = random_tensor<Acc>(Shape{batch, D, N}, 8);

  View<T const, 3> groups(Index begin) const {
    View<T const, 2> const rows = View<T const, 2>{dbc.view()}.slice(1, begin, G * N);
    return {rows.data(), Shape<3>{batch, G, N}, Shape<3>{rows.stride(0), N, 1}};
  }
  ProjectedScanStepArgs<T> args(View<Acc, 3> state, View<T, 2> y) const {
    return {.u = u,
            .dt = View<T const, 2>{dbc.view()}.slice(1, 0, R),
            .dt_weight = weight,
            .A_log = A_log,
            .B = groups(R),
            .C = groups(R + G * N),
            .D = skip,
            .z = z,
            .delta_bias = bias,
            .delta_softplus = true,
            .state = state,
            .y = y};
  }
};

template <class T>
struct Result {
  Tensor<T, 2> y;
  Tensor<accumulator_t<T>, 3> state;
};

template <class T, class Ctx>
Result<T> run(Ctx const& ctx, Problem<T> const& p) {
  Result<T> out{Tensor<T, 2>{p.u.shape()}, p.initial.clone()};
  projected_scan_step(ctx, p.args(out.state, out.y));
  return out;
}

template <class T>
void check_same(Result<T> const& a, Result<T> const& b) {
  for (Index i = 0; i < a.y.size(); ++i) CHECK(a.y.data()[i] == b.y.data()[i]);
  for (Index i = 0; i < a.state.size(); ++i) CHECK(a.state.data()[i] == b.state.data()[i]);
}

}  // namespace

TEST_CASE("projected_scan_step: it is the linear map, the decay and the scan's step after each other") {
  Problem<double> const p{3, 10, 5, 7, 2};
  Tensor<double, 2> delta{p.u.shape()}, A{p.A_log.shape()};
  Result<double> expected{Tensor<double, 2>{p.u.shape()}, p.initial.clone()};
  auto const a = p.args(expected.state, expected.y);
  Reference const ctx;
  linear(ctx, LinearArgs<double>{.x = a.dt, .weight = a.dt_weight, .y = delta});
  decay(ctx, DecayArgs<double>{.A_log = a.A_log, .A = A});
  selective_scan_step(ctx, SelectiveScanStepArgs<double>{.u = a.u,
                                                         .delta = delta,
                                                         .A = A,
                                                         .B = a.B,
                                                         .C = a.C,
                                                         .D = a.D,
                                                         .z = a.z,
                                                         .delta_bias = a.delta_bias,
                                                         .delta_softplus = true,
                                                         .state = a.state,
                                                         .y = a.y});
  auto const got = run(ctx, p);
  verify::Cost const cost{.terms = 13, .scale = 1};
  CHECK_CLOSE(verify::compare(got.y.view(), expected.y.view(), cost));
  CHECK_CLOSE(verify::compare(got.state.view(), expected.state.view(), cost));
}

TEST_CASE_TEMPLATE("projected_scan_step: one thread gives what two give", T, float, double, half, bf16) {
  Problem<T> const p{3, 700, 16, 24};
  check_same(run(Cpu{1}, p), run(Cpu{2}, p));
}

TEST_CASE("projected_scan_step: columns that are no neighbours take the reference path and give its values") {
  Problem<float> p{2, 9, 4, 6};
  auto const expected = run(Reference{}, p);
  Tensor<float, 2> turned{Shape{p.R, p.D}};
  for (Index d = 0; d < p.D; ++d)
    for (Index k = 0; k < p.R; ++k) turned(k, d) = p.weight(d, k);
  Result<float> got{Tensor<float, 2>{p.u.shape()}, p.initial.clone()};
  auto args = p.args(got.state, got.y);
  args.dt_weight = View<float const, 2>{turned.view()}.transposed(0, 1);
  projected_scan_step(Cpu{2}, args);
  check_same(got, expected);
}

TEST_CASE("projected_scan_step: arguments that disagree are refused with their numbers") {
  Problem<float> const p{2, 6, 4, 3};
  Tensor<float, 2> y{p.u.shape()};
  auto state = p.initial.clone();
  auto args = p.args(state, y);
  Tensor<float, 2> weight{Shape{Index{6}, Index{4}}};
  args.dt_weight = weight;
  CHECK_THROWS_WITH_AS(projected_scan_step(Reference{}, args),
                       "projected_scan_step: dt_weight has shape (6, 4), u and dt asks for (6, 3): extent 1 is 4, not 3",
                       shape_error);
}
