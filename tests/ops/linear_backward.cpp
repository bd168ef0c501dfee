#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/verify/problems/linear.hpp>

#include <algorithm>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

template <class T>
struct Gradients {
  Tensor<T, 2> d_x;
  Tensor<accumulator_t<T>, 2> d_weight;
  Tensor<accumulator_t<T>, 1> d_bias;
};

/// One problem, and its gradients from the same rounded inputs in double on the reference. Parameters' gradients start at numbers
/// that are not 0.
template <class T>
struct Problem {
  using A = accumulator_t<T>;
  Index M, N, K;
  Tensor<T, 2> x, weight, d_y;
  Tensor<A, 2> weight_start;
  Tensor<A, 1> bias_start;

  Problem(Index rows, Index outputs, Index inputs)
      : M{rows},
        N{outputs},
        K{inputs},
        x{test::random_tensor<T>(Shape{M, K}, 1)},
        weight{test::random_tensor<T>(Shape{N, K}, 2)},
        d_y{test::random_tensor<T>(Shape{M, N}, 3)},
        weight_start{test::random_tensor<A>(Shape{N, K}, 4)},
        bias_start{test::random_tensor<A>(Shape{N}, 5)} {}

  template <class Ctx>
  Gradients<T> solve(Ctx const& ctx) const {
    Gradients<T> out{test::random_tensor<T>(Shape{M, K}, 6), weight_start.clone(), bias_start.clone()};
    linear_backward(ctx, LinearBackwardArgs<T>{
                             .x = x, .weight = weight, .d_y = d_y, .d_x = out.d_x, .d_weight = out.d_weight, .d_bias = out.d_bias});
    return out;
  }

  Gradients<double> exact() const {
    auto const wide_x = converted<double>(x), wide_weight = converted<double>(weight), wide_d_y = converted<double>(d_y);
    Gradients<double> out{Tensor<double, 2>{Shape{M, K}}, converted<double>(weight_start), converted<double>(bias_start)};
    linear_backward(
        Reference{},
        LinearBackwardArgs<double>{
            .x = wide_x, .weight = wide_weight, .d_y = wide_d_y, .d_x = out.d_x, .d_weight = out.d_weight, .d_bias = out.d_bias});
    return out;
  }

  void check(Gradients<T> const& got, Gradients<double> const& expected) const {
    // Products of standard normal numbers are summed, which in a gradient of one element may cancel.
    verify::Cost const over_outputs{.terms = static_cast<double>(N), .scale = 1};
    verify::Cost const over_rows{.terms = static_cast<double>(M), .scale = 1};
    CHECK_CLOSE(verify::compare(got.d_x.view(), expected.d_x.view(), over_outputs));
    CHECK_CLOSE(verify::compare(got.d_weight.view(), expected.d_weight.view(), over_rows));
    CHECK_CLOSE(verify::compare(got.d_bias.view(), expected.d_bias.view(), over_rows));
  }
};

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

template <class T>
bool same_bits(Gradients<T> const& a, Gradients<T> const& b) {
  return same_bits(a.d_x, b.d_x) && same_bits(a.d_weight, b.d_weight) && same_bits(a.d_bias, b.d_bias);
}

/// The matrix in memory with a gap after each row.
template <class T>
Tensor<T, 2> padded(View<T const, 2> from, Index gap) {
  Tensor<T, 2> out{Shape{from.extent(0), from.extent(1) + gap}};
  for (Index r = 0; r < from.extent(0); ++r)
    for (Index i = 0; i < from.extent(1); ++i) out(r, i) = from(r, i);
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("linear_backward: every scalar and shape agrees with the double reference on every context", T, float, double,
                   half, bf16) {
  for (Index M : {0, 1, 3, 8, 17, 65})
    for (Index N : {0, 1, 3, 8, 25, 67})
      for (Index K : {0, 1, 7, 8, 9, 64, 131}) {
        INFO(concat("M ", M, ", N ", N, ", K ", K));
        Problem<T> const problem{M, N, K};
        auto const exact = problem.exact();
        problem.check(problem.solve(Reference{}), exact);
        auto const one_thread = problem.solve(Cpu{1});
        problem.check(one_thread, exact);
        CHECK(same_bits(one_thread, problem.solve(Cpu{2})));
      }
}

TEST_CASE_TEMPLATE("linear_backward: sizes past one tile, and rows cut into pieces, agree too, the same bits on 1, 2 and 3 threads",
                   T, float, double, half, bf16) {
  for (Shape<3> const size : {Shape<3>{259, 517, 391}, Shape<3>{1801, 19, 37}, Shape<3>{1101, 70, 5}}) {
    INFO("M, N, K: ", to_string(size));
    Problem<T> const problem{size[0], size[1], size[2]};
    auto const one_thread = problem.solve(Cpu{1});
    problem.check(one_thread, problem.exact());
    CHECK(same_bits(one_thread, problem.solve(Cpu{2})));
    CHECK(same_bits(one_thread, problem.solve(Cpu{3})));
  }
}

TEST_CASE_TEMPLATE("linear_backward: an absent gradient is not computed and changes nothing else", Ctx, Reference, Cpu) {
  Problem<float> const problem{33, 12, 20};
  Ctx const ctx;
  auto const all = problem.solve(ctx);
  Tensor<float, 2> const nothing{all.d_x.shape()};
  for (int bits = 0; bits < 8; ++bits) {
    Gradients<float> got{Tensor<float, 2>{Shape{problem.M, problem.K}}, problem.weight_start.clone(), problem.bias_start.clone()};
    LinearBackwardArgs<float> args{.x = problem.x, .weight = problem.weight, .d_y = problem.d_y};
    if (bits & 1) args.d_x = got.d_x;
    if (bits & 2) args.d_weight = got.d_weight;
    if (bits & 4) args.d_bias = got.d_bias;
    linear_backward(ctx, args);
    CHECK(same_bits(got.d_x, bits & 1 ? all.d_x : nothing));
    CHECK(same_bits(got.d_weight, bits & 2 ? all.d_weight : problem.weight_start));
    CHECK(same_bits(got.d_bias, bits & 4 ? all.d_bias : problem.bias_start));
  }
}

TEST_CASE_TEMPLATE("linear_backward: the gradient of the input may take the input's place", T, float, bf16) {
  Problem<T> const problem{70, 29, 45};
  auto const run = [&](auto const& ctx) {
    auto const apart = problem.solve(ctx);
    auto x = problem.x.clone();
    auto d_weight = problem.weight_start.clone();
    linear_backward(ctx,
                    LinearBackwardArgs<T>{.x = x, .weight = problem.weight, .d_y = problem.d_y, .d_x = x, .d_weight = d_weight});
    CHECK(same_bits(x, apart.d_x));
    CHECK(same_bits(d_weight, apart.d_weight));
  };
  run(Reference{});
  run(Cpu{2});
}

TEST_CASE_TEMPLATE("linear_backward: the gradient of the input is added to where that is asked for", T, float, double, half, bf16) {
  auto const sizes = [] {
    std::vector<verify::LinearBackwardSize> out;
    for (Shape<3> const size : {Shape<3>{3, 0, 5}, Shape<3>{5, 3, 0}, Shape<3>{1, 1, 1}, Shape<3>{65, 257, 131}})
      out.push_back({size[0], size[1], size[2], true, true, true, false, true});
    return out;
  }();
  for (auto const& report : {verify::check<verify::LinearBackwardProblem, T>(Reference{}, {}, sizes),
                             verify::check<verify::LinearBackwardProblem, T>(Cpu{2}, {}, sizes)}) {
    INFO(report.table());
    CHECK(static_cast<bool>(report));
  }
}

TEST_CASE_TEMPLATE("linear_backward: rows with gaps between them give the same bits and the gaps stay as they were", T, float,
                   double, half, bf16) {
  using A = accumulator_t<T>;
  Problem<T> const problem{70, 29, 45};
  auto const dense = problem.solve(Cpu{2});
  auto const x = padded<T>(problem.x, 3), weight = padded<T>(problem.weight, 5), d_y = padded<T>(problem.d_y, 1);
  Tensor<T, 2> d_x{Shape<2>{70, 47}};
  auto d_weight = padded<A>(problem.weight_start, 4);
  auto d_bias = padded<A>(problem.bias_start.view().template reshaped<2>(Shape<2>{29, 1}), 2);
  linear_backward(Cpu{2}, LinearBackwardArgs<T>{.x = x.view().slice(1, 0, 45),
                                                .weight = weight.view().slice(1, 0, 45),
                                                .d_y = d_y.view().slice(1, 0, 29),
                                                .d_x = d_x.view().slice(1, 0, 45),
                                                .d_weight = d_weight.view().slice(1, 0, 45),
                                                .d_bias = {d_bias.data(), Shape<1>{29}, Shape<1>{3}}});
  CHECK(same_bits(d_x, padded<T>(dense.d_x, 2)));
  CHECK(same_bits(d_weight, padded<A>(dense.d_weight, 4)));
  CHECK(same_bits(d_bias, padded<A>(dense.d_bias.view().template reshaped<2>(Shape<2>{29, 1}), 2)));
}

TEST_CASE("linear_backward: strided columns take the reference path and give the same values") {
  Problem<float> const problem{33, 6, 20};
  auto const reference = problem.solve(Reference{});
  Tensor<float, 2> columns{Shape<2>{20, 33}};
  for (Index m = 0; m < 33; ++m)
    for (Index k = 0; k < 20; ++k) columns(k, m) = problem.x(m, k);
  Gradients<float> got{Tensor<float, 2>{Shape<2>{33, 20}}, problem.weight_start.clone(), problem.bias_start.clone()};
  linear_backward(Cpu{2}, LinearBackwardArgs<float>{.x = columns.view().transposed(0, 1),
                                                    .weight = problem.weight,
                                                    .d_y = problem.d_y,
                                                    .d_x = got.d_x,
                                                    .d_weight = got.d_weight,
                                                    .d_bias = got.d_bias});
  CHECK(same_bits(got, reference));
}

TEST_CASE("linear_backward: all temporary memory comes from the context, and is given back") {
  Cpu const ctx{2};
  Problem<bf16> const problem{1200, 50, 60};
  auto const first = problem.solve(ctx);
  problem.solve(ctx);
  CHECK(ctx.scratch().in_use() == 0);
  ctx.scratch().seal();
  CHECK(same_bits(problem.solve(ctx), first));
}

TEST_CASE("linear_backward: gradients are those of dual numbers through the forward pass") {
  Index const M = 5, N = 4, K = 7;
  auto const x = test::random_tensor<double>(Shape{M, K}, 1), weight = test::random_tensor<double>(Shape{N, K}, 2);
  auto const bias = test::random_tensor<double>(Shape{N}, 3);
  auto const d_y = test::random_tensor<double>(Shape{M, N}, 4);
  auto const run = [&](auto const& ctx) {
    Gradients<double> d{Tensor<double, 2>{Shape{M, K}}, Tensor<double, 2>{Shape{N, K}}, Tensor<double, 1>{Shape{N}}};
    linear_backward(ctx, LinearBackwardArgs<double>{
                             .x = x, .weight = weight, .d_y = d_y, .d_x = d.d_x, .d_weight = d.d_weight, .d_bias = d.d_bias});
    test::check_gradients(
        [&](auto const& x_dual, auto const& weight_dual, auto const& bias_dual) {
          Tensor<Dual<double>, 2> y{Shape{M, N}};
          linear(Reference{}, LinearArgs<Dual<double>>{.x = x_dual, .weight = weight_dual, .bias = bias_dual, .y = y});
          return test::weighted_sum(d_y, y);
        },
        test::Gradient{"x", x, d.d_x}, test::Gradient{"weight", weight, d.d_weight}, test::Gradient{"bias", bias, d.d_bias});
  };
  run(Reference{});
  run(Cpu{2});
}

TEST_CASE("linear_backward: arguments that disagree are refused with their extents") {
  Tensor<float, 2> x{Shape<2>{2, 8}}, weight{Shape<2>{5, 8}}, d_y{Shape<2>{2, 5}}, wrong{Shape<2>{3, 7}};
  Tensor<float, 1> bias{Shape<1>{4}};
  CHECK_THROWS_WITH_AS(linear_backward(Cpu{1}, LinearBackwardArgs<float>{.x = x, .weight = wrong, .d_y = d_y}),
                       "linear_backward: weight has shape (3, 7), x asks for (3, 8): extent 1 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(linear_backward(Cpu{1}, LinearBackwardArgs<float>{.x = x, .weight = weight, .d_y = wrong}),
                       "linear_backward: d_y has shape (3, 7), x asks for (2, 5): extent 0 is 3, not 2", shape_error);
  CHECK_THROWS_WITH_AS(linear_backward(Cpu{1}, LinearBackwardArgs<float>{.x = x, .weight = weight, .d_y = d_y, .d_x = wrong}),
                       "linear_backward: d_x has shape (3, 7), x asks for (2, 8): extent 0 is 3, not 2", shape_error);
  CHECK_THROWS_WITH_AS(linear_backward(Cpu{1}, LinearBackwardArgs<float>{.x = x, .weight = weight, .d_y = d_y, .d_weight = wrong}),
                       "linear_backward: d_weight has shape (3, 7), weight asks for (5, 8): extent 0 is 3, not 5", shape_error);
  CHECK_THROWS_WITH_AS(linear_backward(Cpu{1}, LinearBackwardArgs<float>{.x = x, .weight = weight, .d_y = d_y, .d_bias = bias}),
                       "linear_backward: d_bias has shape (4,), weight asks for (5,): extent 0 is 4, not 5", shape_error);
}
