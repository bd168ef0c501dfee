#include <blackmamba/ops/rms_norm/backward.hpp>

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
  Tensor<accumulator_t<T>, 1> d_weight;
};

/// One problem; the gradient of the weight starts at numbers that are not 0.
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

  RmsNormBackwardArgs<T> args(Gradients<T>& out) const {
    RmsNormBackwardArgs<T> a{.weight = weight, .d_y = d_y, .d_x = out.d_x, .d_weight = out.d_weight};
    if (options.residual)
      a.residual = residual;
    else
      a.x = x;
    if (options.from_above) a.d_residual = out.d_residual;
    return a;
  }

  Gradients<T> fresh() const { return {from_above.clone(), Tensor<T, 2>{x.shape()}, start.clone()}; }

  template <class Ctx>
  Gradients<T> solve(Ctx const& ctx) const {
    auto out = fresh();
    rms_norm_backward(ctx, args(out));
    return out;
  }

  /// The largest term of a row's gradient, s g, which the others may cancel: with one column they do, but for ε.
  double largest_term() const {
    double largest = 0;
    for (Index r = 0; r < rows; ++r) {
      double squares = 0, g = 0;
      for (Index i = 0; i < D; ++i) {
        double const v = static_cast<double>(options.residual ? residual(r, i) : widen(x(r, i)));
        squares += v * v;
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
  }
};

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

template <class T>
bool same_bits(Gradients<T> const& a, Gradients<T> const& b) {
  return same_bits(a.d_residual, b.d_residual) && same_bits(a.d_x, b.d_x) && same_bits(a.d_weight, b.d_weight);
}

}  // namespace

TEST_CASE_TEMPLATE("rms_norm_backward: every scalar and shape agrees with the double reference on every context", T, float, double,
                   half, bf16) {
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

TEST_CASE_TEMPLATE("rms_norm_backward: many rows, summed in pieces, give the same bits on 1, 2 and 3 threads", T, float, double,
                   half, bf16) {
  auto const problem = Problem<T>::make(1999, 133, {});
  auto const one_thread = problem.solve(Cpu{1});
  problem.check(one_thread, problem.exact().solve(Reference{}));
  CHECK(same_bits(one_thread, problem.solve(Cpu{2})));
  CHECK(same_bits(one_thread, problem.solve(Cpu{3})));
}

TEST_CASE_TEMPLATE("rms_norm_backward: an absent gradient is not computed and changes nothing else", Ctx, Reference, Cpu) {
  auto const problem = Problem<float>::make(5, 19, {});
  Ctx const ctx;
  auto const all = problem.solve(ctx), none = problem.fresh();
  for (int bits = 0; bits < 4; ++bits) {
    auto got = problem.fresh();
    auto args = problem.args(got);
    if (!(bits & 1)) args.d_x = {};
    if (!(bits & 2)) args.d_weight = {};
    rms_norm_backward(ctx, args);
    CHECK(same_bits(got.d_residual, all.d_residual));
    CHECK(same_bits(got.d_x, bits & 1 ? all.d_x : none.d_x));
    CHECK(same_bits(got.d_weight, bits & 2 ? all.d_weight : none.d_weight));
  }
  auto got = problem.fresh();
  rms_norm_backward(ctx, RmsNormBackwardArgs<float>{
                             .weight = problem.weight, .residual = problem.residual, .d_y = problem.d_y, .d_weight = got.d_weight});
  CHECK(same_bits(got.d_weight, all.d_weight));
}

TEST_CASE_TEMPLATE("rms_norm_backward: the gradient of x may take the place of x or of that of y", Ctx, Reference, Cpu) {
  auto const problem = Problem<bf16>::make(5, 19, {.residual = false});
  auto const apart = problem.solve(Ctx{});
  for (bool in_x : {true, false}) {
    auto got = problem.fresh();
    auto args = problem.args(got);
    auto place = in_x ? problem.x.clone() : problem.d_y.clone();
    (in_x ? args.x : args.d_y) = place;
    args.d_x = place;
    rms_norm_backward(Ctx{}, args);
    CHECK(same_bits(place, apart.d_x));
    CHECK(same_bits(got.d_weight, apart.d_weight));
  }
}

TEST_CASE("rms_norm_backward: rows with gaps give the same bits, columns the reference's") {
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
    rms_norm_backward(Cpu{2}, args);
    CHECK(same_bits(got, by_columns ? reference : expected));
  }
}

TEST_CASE("rms_norm_backward: gradients are those of dual numbers through the forward pass") {
  using D2 = Tensor<Dual<double>, 2>;
  Shape<2> const shape{4, 7};
  auto const x = test::random_tensor<double>(shape, 1), residual = test::random_tensor<double>(shape, 2);
  auto const weight = test::random_tensor<double>(Shape<1>{7}, 3);
  auto const d_y = test::random_tensor<double>(shape, 4), from_above = test::random_tensor<double>(shape, 5);
  auto const run = [&](auto const& ctx) {
    Tensor<double, 2> d_x{shape}, d_stream = from_above.clone();
    Tensor<double, 1> d_weight{weight.shape()};
    rms_norm_backward(
        ctx, RmsNormBackwardArgs<double>{.x = x, .weight = weight, .epsilon = 0.01, .d_y = d_y, .d_x = d_x, .d_weight = d_weight});
    test::check_gradients(
        [&](auto const& x_dual, auto const& weight_dual) {
          D2 y{shape};
          rms_norm(Reference{}, RmsNormArgs<Dual<double>>{.x = x_dual, .weight = weight_dual, .y = y, .epsilon = 0.01});
          return test::weighted_sum(d_y, y);
        },
        test::Gradient{"x", x, d_x}, test::Gradient{"weight", weight, d_weight});

    auto stream = residual.clone();
    for (Index i = 0; i < stream.size(); ++i) stream.data()[i] += x.data()[i];
    Tensor<double, 1> d_weight_of_stream{weight.shape()};
    rms_norm_backward(ctx, RmsNormBackwardArgs<double>{.weight = weight,
                                                       .residual = stream,
                                                       .epsilon = 0.01,
                                                       .d_y = d_y,
                                                       .d_residual = d_stream,
                                                       .d_x = d_x,
                                                       .d_weight = d_weight_of_stream});
    test::check_gradients(
        [&](auto const& x_dual, auto const& residual_dual, auto const& weight_dual) {
          D2 y{shape}, r = residual_dual.clone();
          rms_norm(Reference{},
                   RmsNormArgs<Dual<double>>{.x = x_dual, .weight = weight_dual, .residual = r, .y = y, .epsilon = 0.01});
          return test::weighted_sum(d_y, y) + test::weighted_sum(from_above, r);
        },
        test::Gradient{"x", x, d_x}, test::Gradient{"residual", residual, d_stream},
        test::Gradient{"weight", weight, d_weight_of_stream});
  };
  run(Reference{});
  run(Cpu{2});
}

TEST_CASE("rms_norm_backward: arguments that disagree are refused with their extents") {
  Tensor<float, 2> x{Shape<2>{2, 8}}, wrong{Shape<2>{2, 7}};
  Tensor<float, 1> weight{Shape<1>{8}}, short_weight{Shape<1>{7}};
  auto const refused = [&](RmsNormBackwardArgs<float> const& args, char const* message) {
    CHECK_THROWS_WITH_AS(rms_norm_backward(Cpu{1}, args), message, shape_error);
  };
  refused({.x = x, .weight = short_weight, .d_y = x},
          "rms_norm_backward: weight has shape (7,), x asks for (8,): extent 0 is 7, not 8");
  refused({.weight = weight, .residual = x, .d_y = wrong},
          "rms_norm_backward: d_y has shape (2, 7), residual asks for (2, 8): extent 1 is 7, not 8");
  refused({.x = x, .weight = weight, .d_y = x, .d_residual = wrong},
          "rms_norm_backward: d_residual has shape (2, 7), x asks for (2, 8): extent 1 is 7, not 8");
  refused({.x = x, .weight = weight, .d_y = x, .d_x = wrong},
          "rms_norm_backward: d_x has shape (2, 7), x asks for (2, 8): extent 1 is 7, not 8");
  refused({.x = x, .weight = weight, .d_y = x, .d_weight = short_weight},
          "rms_norm_backward: d_weight has shape (7,), x asks for (8,): extent 0 is 7, not 8");
  CHECK_THROWS_WITH_AS(rms_norm_backward(Cpu{1}, RmsNormBackwardArgs<float>{.weight = weight, .d_y = x}),
                       "rms_norm_backward: neither x nor residual is given", value_error);
  CHECK_THROWS_WITH_AS(rms_norm_backward(Cpu{1}, RmsNormBackwardArgs<float>{.x = x, .weight = weight, .epsilon = -1, .d_y = x}),
                       "rms_norm_backward: epsilon is -1, not at least 0", value_error);
}
