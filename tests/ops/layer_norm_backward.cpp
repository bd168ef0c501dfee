#include <blackmamba/ops/layer_norm/backward.hpp>

#include <algorithm>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

/// Which arguments a problem has.
struct Options {
  bool residual = true, from_above = true;
  std::string describe() const { return concat("residual ", residual, ", from above ", from_above); }
};

template <class T>
struct Gradients {
  Tensor<accumulator_t<T>, 2> d_residual;
  Tensor<T, 2> d_x;
  Tensor<accumulator_t<T>, 1> d_weight, d_bias;
};

/// One problem; the gradients of weight and bias start at numbers that are not 0.
template <class T>
struct Problem {
  using A = accumulator_t<T>;
  Index rows, D;
  Options options;
  Tensor<T, 2> x, d_y;
  Tensor<T, 1> weight;
  Tensor<A, 2> residual, from_above;
  Tensor<A, 1> start;

  static Problem make(Index rows, Index D, Options options) {
    return {rows,
            D,
            options,
            test::random_tensor<T>(Shape{rows, D}, 1),
            test::random_tensor<T>(Shape{rows, D}, 2),
            test::random_tensor<T>(Shape{D}, 3),
            test::random_tensor<A>(Shape{rows, D}, 4, 2),
            test::random_tensor<A>(Shape{rows, D}, 5),
            test::random_tensor<A>(Shape{D}, 6)};
  }

  Problem<double> exact() const {
    return {rows,
            D,
            options,
            converted<double>(x),
            converted<double>(d_y),
            converted<double>(weight),
            converted<double>(residual),
            converted<double>(from_above),
            converted<double>(start)};
  }

  LayerNormBackwardArgs<T> args(Gradients<T>& out) const {
    LayerNormBackwardArgs<T> a{.weight = weight, .d_y = d_y, .d_x = out.d_x, .d_weight = out.d_weight, .d_bias = out.d_bias};
    if (options.residual)
      a.residual = residual;
    else
      a.x = x;
    if (options.from_above) a.d_residual = out.d_residual;
    return a;
  }

  Gradients<T> fresh() const { return {from_above.clone(), Tensor<T, 2>{x.shape()}, start.clone(), start.clone()}; }

  template <class Ctx>
  Gradients<T> solve(Ctx const& ctx) const {
    auto out = fresh();
    layer_norm_backward(ctx, args(out));
    return out;
  }

  /// The largest term of a row's gradient, s g, which the others may cancel: with one column they do.
  double largest_term() const {
    double largest = 0;
    for (Index r = 0; r < rows; ++r) {
      double mean = 0, squares = 0, g = 0;
      auto const value = [&](Index i) { return static_cast<double>(options.residual ? residual(r, i) : widen(x(r, i))); };
      for (Index i = 0; i < D; ++i) mean += value(i) / static_cast<double>(D);
      for (Index i = 0; i < D; ++i) {
        squares += (value(i) - mean) * (value(i) - mean);
        g = std::max(g, std::fabs(static_cast<double>(widen(d_y(r, i))) * static_cast<double>(widen(weight(i)))));
      }
      largest = std::max(largest, g / std::sqrt(squares / static_cast<double>(D) + 1e-5));
    }
    return largest;
  }

  void check(Gradients<T> const& got, Gradients<double> const& expected) const {
    verify::Cost const of_row{.terms = static_cast<double>(D), .scale = largest_term()};
    CHECK_CLOSE(verify::compare(got.d_x.view(), expected.d_x.view(), of_row));
    CHECK_CLOSE(verify::compare(got.d_residual.view(), expected.d_residual.view(), of_row));
    CHECK_CLOSE(verify::compare(got.d_weight.view(), expected.d_weight.view(), {.terms = static_cast<double>(rows + D)}));
    CHECK_CLOSE(verify::compare(got.d_bias.view(), expected.d_bias.view(), {.terms = static_cast<double>(rows), .scale = 1}));
  }
};

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

template <class T>
bool same_bits(Gradients<T> const& a, Gradients<T> const& b) {
  return same_bits(a.d_residual, b.d_residual) && same_bits(a.d_x, b.d_x) && same_bits(a.d_weight, b.d_weight) &&
         same_bits(a.d_bias, b.d_bias);
}

}  // namespace

TEST_CASE_TEMPLATE("layer_norm_backward: every scalar and shape agrees with the double reference on every context", T, float,
                   double, half, bf16) {
  for (Index rows : {0, 1, 3, 17})
    for (Index D : {0, 1, 3, 4, 5, 7, 8, 9, 64, 127})
      for (Options options : {Options{false, false}, Options{false, true}, Options{true, false}, Options{true, true}}) {
        INFO(concat("rows ", rows, ", D ", D, ", ", options.describe()));
        auto const problem = Problem<T>::make(rows, D, options);
        auto const exact = problem.exact().solve(Reference{});
        problem.check(problem.solve(Reference{}), exact);
        problem.check(problem.solve(Cpu{1}), exact);
        problem.check(problem.solve(Cpu{2}), exact);
      }
}

TEST_CASE_TEMPLATE("layer_norm_backward: many rows, summed in pieces, give the same bits on 1, 2 and 3 threads", T, float, double,
                   half, bf16) {
  auto const problem = Problem<T>::make(1999, 133, {});
  auto const one_thread = problem.solve(Cpu{1});
  problem.check(one_thread, problem.exact().solve(Reference{}));
  CHECK(same_bits(one_thread, problem.solve(Cpu{2})));
  CHECK(same_bits(one_thread, problem.solve(Cpu{3})));
}

TEST_CASE_TEMPLATE("layer_norm_backward: an absent gradient is not computed and changes nothing else", Ctx, Reference, Cpu) {
  auto const problem = Problem<float>::make(5, 19, {});
  Ctx const ctx;
  auto const all = problem.solve(ctx), none = problem.fresh();
  for (int bits = 0; bits < 8; ++bits) {
    auto got = problem.fresh();
    auto args = problem.args(got);
    if (!(bits & 1)) args.d_x = {};
    if (!(bits & 2)) args.d_weight = {};
    if (!(bits & 4)) args.d_bias = {};
    layer_norm_backward(ctx, args);
    CHECK(same_bits(got.d_residual, all.d_residual));
    CHECK(same_bits(got.d_x, bits & 1 ? all.d_x : none.d_x));
    CHECK(same_bits(got.d_weight, bits & 2 ? all.d_weight : none.d_weight));
    CHECK(same_bits(got.d_bias, bits & 4 ? all.d_bias : none.d_bias));
  }
  auto got = problem.fresh();
  layer_norm_backward(ctx,
                      LayerNormBackwardArgs<float>{
                          .weight = problem.weight, .residual = problem.residual, .d_y = problem.d_y, .d_weight = got.d_weight});
  CHECK(same_bits(got.d_weight, all.d_weight));
}

TEST_CASE_TEMPLATE("layer_norm_backward: the gradient of x may take the place of x or of that of y", Ctx, Reference, Cpu) {
  auto const problem = Problem<bf16>::make(5, 19, {.residual = false});
  auto const apart = problem.solve(Ctx{});
  for (bool in_x : {true, false}) {
    auto got = problem.fresh();
    auto args = problem.args(got);
    auto place = in_x ? problem.x.clone() : problem.d_y.clone();
    (in_x ? args.x : args.d_y) = place;
    args.d_x = place;
    layer_norm_backward(Ctx{}, args);
    CHECK(same_bits(place, apart.d_x));
    CHECK(same_bits(got.d_weight, apart.d_weight));
  }
}

TEST_CASE("layer_norm_backward: rows with gaps give the same bits, columns the reference's") {
  auto const problem = Problem<float>::make(6, 21, {});
  auto const expected = problem.solve(Cpu{2}), reference = problem.solve(Reference{});
  for (bool by_columns : {false, true}) {
    auto got = problem.fresh();
    auto args = problem.args(got);
    Tensor<float, 2> memory{by_columns ? Shape<2>{21, 6} : Shape<2>{6, 25}};
    auto const d_y = by_columns ? memory.view().transposed(0, 1) : memory.view().slice(1, 1, 21);
    for (Index r = 0; r < 6; ++r)
      for (Index i = 0; i < 21; ++i) d_y(r, i) = problem.d_y(r, i);
    args.d_y = d_y;
    layer_norm_backward(Cpu{2}, args);
    CHECK(same_bits(got, by_columns ? reference : expected));
  }
}

TEST_CASE("layer_norm_backward: gradients are those of dual numbers through the forward pass") {
  using D2 = Tensor<Dual<double>, 2>;
  Shape<2> const shape{4, 7};
  auto const x = test::random_tensor<double>(shape, 1), residual = test::random_tensor<double>(shape, 2);
  auto const weight = test::random_tensor<double>(Shape<1>{7}, 3), bias = test::random_tensor<double>(Shape<1>{7}, 6);
  auto const d_y = test::random_tensor<double>(shape, 4), from_above = test::random_tensor<double>(shape, 5);
  auto stream = residual.clone();
  for (Index i = 0; i < stream.size(); ++i) stream.data()[i] += x.data()[i];
  auto const run = [&](auto const& ctx) {
    Tensor<double, 2> d_x{shape};
    Tensor<double, 1> d_weight{weight.shape()}, d_bias{weight.shape()};
    LayerNormBackwardArgs<double> args{
        .x = x, .weight = weight, .epsilon = 0.01, .d_y = d_y, .d_x = d_x, .d_weight = d_weight, .d_bias = d_bias};
    layer_norm_backward(ctx, args);
    test::check_gradients(
        [&](auto const& x_dual, auto const& weight_dual, auto const& bias_dual) {
          D2 y{shape};
          layer_norm(Reference{},
                     LayerNormArgs<Dual<double>>{.x = x_dual, .weight = weight_dual, .bias = bias_dual, .y = y, .epsilon = 0.01});
          return test::weighted_sum(d_y, y);
        },
        test::Gradient{"x", x, d_x}, test::Gradient{"weight", weight, d_weight}, test::Gradient{"bias", bias, d_bias});

    auto d_stream = from_above.clone();
    Tensor<double, 1> d_weight_of_stream{weight.shape()}, d_bias_of_stream{weight.shape()};
    args.x = {}, args.residual = stream;
    args.d_residual = d_stream, args.d_weight = d_weight_of_stream, args.d_bias = d_bias_of_stream;
    layer_norm_backward(ctx, args);
    test::check_gradients(
        [&](auto const& x_dual, auto const& residual_dual, auto const& weight_dual, auto const& bias_dual) {
          D2 y{shape}, r = residual_dual.clone();
          layer_norm(Reference{},
                     LayerNormArgs<Dual<double>>{
                         .x = x_dual, .weight = weight_dual, .bias = bias_dual, .residual = r, .y = y, .epsilon = 0.01});
          return test::weighted_sum(d_y, y) + test::weighted_sum(from_above, r);
        },
        test::Gradient{"x", x, d_x}, test::Gradient{"residual", residual, d_stream},
        test::Gradient{"weight", weight, d_weight_of_stream}, test::Gradient{"bias", bias, d_bias_of_stream});
  };
  run(Reference{});
  run(Cpu{2});
}

TEST_CASE_TEMPLATE("layer_norm_backward: a mean far from 0 costs no digits", T, float, double) {
  auto problem = Problem<T>::make(3, 131, {});
  for (T& v : problem.residual) v += T(4096);
  auto const exact = problem.exact().solve(Reference{});
  problem.check(problem.solve(Reference{}), exact);
  problem.check(problem.solve(Cpu{2}), exact);
}

TEST_CASE("layer_norm_backward: arguments that disagree are refused with their extents") {
  Tensor<float, 2> x{Shape<2>{2, 8}}, wrong{Shape<2>{2, 7}};
  Tensor<float, 1> weight{Shape<1>{8}}, short_weight{Shape<1>{7}};
  auto const refused = [&](LayerNormBackwardArgs<float> const& args, char const* message) {
    CHECK_THROWS_WITH_AS(layer_norm_backward(Cpu{1}, args), message, shape_error);
  };
  refused({.x = x, .weight = short_weight, .d_y = x},
          "layer_norm_backward: weight has shape (7,), x asks for (8,): extent 0 is 7, not 8");
  refused({.weight = weight, .residual = x, .d_y = wrong},
          "layer_norm_backward: d_y has shape (2, 7), residual asks for (2, 8): extent 1 is 7, not 8");
  refused({.x = x, .weight = weight, .d_y = x, .d_residual = wrong},
          "layer_norm_backward: d_residual has shape (2, 7), x asks for (2, 8): extent 1 is 7, not 8");
  refused({.x = x, .weight = weight, .d_y = x, .d_x = wrong},
          "layer_norm_backward: d_x has shape (2, 7), x asks for (2, 8): extent 1 is 7, not 8");
  refused({.x = x, .weight = weight, .d_y = x, .d_weight = short_weight},
          "layer_norm_backward: d_weight has shape (7,), x asks for (8,): extent 0 is 7, not 8");
  refused({.x = x, .weight = weight, .d_y = x, .d_bias = short_weight},
          "layer_norm_backward: d_bias has shape (7,), x asks for (8,): extent 0 is 7, not 8");
  CHECK_THROWS_WITH_AS(layer_norm_backward(Cpu{1}, LayerNormBackwardArgs<float>{.weight = weight, .d_y = x}),
                       "layer_norm_backward: neither x nor residual is given", value_error);
  CHECK_THROWS_WITH_AS(layer_norm_backward(Cpu{1}, LayerNormBackwardArgs<float>{.x = x, .weight = weight, .epsilon = -1, .d_y = x}),
                       "layer_norm_backward: epsilon is -1, not at least 0", value_error);
}
