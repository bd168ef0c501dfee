#include <blackmamba/ops/expert_mlp/backward.hpp>

#include <algorithm>
#include <utility>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// The five gradients; those of the parameters start somewhere, since they are added to.
template <class T>
struct Gradients {
  using A = accumulator_t<T>;
  Tensor<T, 2> x;
  Tensor<A, 3> fc1, fc2;
  Tensor<A, 2> bias1, bias2;

  /// Calls `body(name, mine, its)` with each gradient of this and the same one of `other`.
  template <class U, class Body>
  void each(Gradients<U> const& other, Body&& body) const {
    body("x", x, other.x), body("fc1", fc1, other.fc1), body("bias1", bias1, other.bias1);
    body("fc2", fc2, other.fc2), body("bias2", bias2, other.bias2);
  }
};

/// Experts of random weights whose outputs have a magnitude of about one, rows for them, and gradients of the outputs.
template <class T>
struct Problem {
  using A = accumulator_t<T>;
  Index E, D, F, F1;
  Activation kind;
  bool gated, biases;
  Tensor<Index, 1> offsets;
  Tensor<T, 2> x, d_y;
  Tensor<T, 3> fc1, fc2;
  Tensor<T, 2> bias1, bias2;

  Problem(std::vector<Index> const& counts, Index D_, Index F_, Activation kind_, bool gated_, bool biases_, Index dropped = 0)
      : E{static_cast<Index>(counts.size())}, D{D_}, F{F_}, F1{gated_ ? 2 * F_ : F_}, kind{kind_}, gated{gated_}, biases{biases_} {
    offsets = Tensor<Index, 1>{Shape{E + 1}};
    for (Index e = 0; e < E; ++e) offsets(e + 1) = offsets(e) + counts[static_cast<std::size_t>(e)];
    x = test::random_tensor<T>(Shape{offsets(E) + dropped, D}, 1);
    d_y = test::random_tensor<T>(x.shape(), 6);
    fc1 = test::random_tensor<T>(Shape{E, F1, D}, 2, 1 / std::sqrt(static_cast<double>(D)));
    fc2 = test::random_tensor<T>(Shape{E, D, F}, 3, 1 / std::sqrt(static_cast<double>(F)));
    bias1 = test::random_tensor<T>(Shape{E, F1}, 4, 0.5);
    bias2 = test::random_tensor<T>(Shape{E, D}, 5, 0.5);
  }

  /// The same numbers in another scalar.
  template <class To>
  Problem<To> as() const {
    Problem<To> out{{}, D, F, kind, gated, biases};
    out.E = E, out.offsets = offsets.clone();
    out.x = converted<To>(x), out.d_y = converted<To>(d_y), out.fc1 = converted<To>(fc1), out.fc2 = converted<To>(fc2);
    out.bias1 = converted<To>(bias1), out.bias2 = converted<To>(bias2);
    return out;
  }

  Gradients<T> start() const {
    Gradients<T> out{Tensor<T, 2>{x.shape()}, test::random_tensor<A>(fc1.shape(), 7), test::random_tensor<A>(fc2.shape(), 8),
                     test::random_tensor<A>(bias1.shape(), 9), test::random_tensor<A>(bias2.shape(), 10)};
    for (T& v : out.x) v = static_cast<T>(A(77));
    return out;
  }

  ExpertMlpBackwardArgs<T> args(Gradients<T>& to) const {
    return {.x = x,
            .offsets = offsets,
            .fc1 = fc1,
            .bias1 = biases ? bias1.view() : View<T const, 2>{},
            .fc2 = fc2,
            .bias2 = biases ? bias2.view() : View<T const, 2>{},
            .activation = kind,
            .gated = gated,
            .d_y = d_y,
            .d_x = to.x,
            .d_fc1 = to.fc1,
            .d_bias1 = to.bias1,
            .d_fc2 = to.fc2,
            .d_bias2 = to.bias2};
  }

  template <class Ctx>
  Gradients<T> run(Ctx const& ctx) const {
    auto out = start();
    expert_mlp_backward(ctx, args(out));
    return out;
  }

  /// h sums over D, d_a again, d_x over F1 and the parameters over the rows. h, d_a, both halves of d_h and d_x are stored; through
  /// the curvature of the activation an error of h reaches the result as often as one of d_h, and with a gate so do those of v.
  verify::Cost cost() const {
    return {.terms = static_cast<double>(2 * D + F1 + x.extent(0)), .roundings = gated ? 6.0 : 4.0, .scale = 1};
  }

  std::string describe() const {
    return concat("rows ", x.extent(0), ", D ", D, ", F ", F, ", ", to_string(kind), ", gated ", gated, ", biases ", biases);
  }
};

/// Under the table of `T`, in which the values that a gradient is made of were stored, also where it is an accumulator itself.
template <class T>
void check_close(Problem<T> const& problem, auto got, auto expected) {
  CHECK_CLOSE(verify::compare_with(
      got, expected, [cost = problem.cost()](double value, double scale) { return verify::allowed_error<T>(cost, value, scale); }));
}

template <class T, class Ctx>
void check(Ctx const& ctx, Problem<T> const& problem, Gradients<double> const& expected) {
  INFO(concat(Ctx::name, ", ", problem.describe()));
  problem.run(ctx).each(expected, [&](char const* name, auto const& got, auto const& exact) {
    INFO(concat("gradient of ", name));
    check_close(problem, got.view(), exact.view());
  });
}

void check_same(auto const& a, auto const& b) {
  a.each(b, [](char const* name, auto const& mine, auto const& its) {
    INFO(concat("gradient of ", name));
    for (Index i = 0; i < mine.size(); ++i) CHECK(widen(mine.data()[i]) == widen(its.data()[i]));
  });
}

/// Every gradient against dual numbers through the forward pass: one coordinate after the other, then all inputs at once in random
/// directions.
void check_by_duals(Problem<double> const& problem) {
  using D = Dual<double>;
  INFO(problem.describe());
  auto const got = problem.run(Reference{}), start = problem.start();
  auto const slope = [&](Problem<D> const& moved) {
    Tensor<D, 2> y{moved.x.shape()};
    expert_mlp(Reference{}, ExpertMlpArgs<D>{.x = moved.x,
                                             .offsets = moved.offsets,
                                             .fc1 = moved.fc1,
                                             .bias1 = moved.biases ? moved.bias1.view() : View<D const, 2>{},
                                             .fc2 = moved.fc2,
                                             .bias2 = moved.biases ? moved.bias2.view() : View<D const, 2>{},
                                             .activation = moved.kind,
                                             .gated = moved.gated,
                                             .y = y});
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i].tangent * problem.d_y.data()[i];
    return sum;
  };

  auto moved = problem.as<D>();
  auto const by_coordinate = [&](char const* name, auto const& gradient, auto const& before, auto& input) {
    INFO(concat("gradient of ", name));
    auto added = gradient.clone(), expected = gradient.clone();
    for (Index i = 0; i < input.size(); ++i) {
      if (before) added.data()[i] -= (*before).data()[i];
      input.data()[i].tangent = 1;
      expected.data()[i] = slope(moved);
      input.data()[i].tangent = 0;
    }
    CHECK_CLOSE(verify::compare_scaled(added.view(), expected.view(), 1e-12));
    return added;
  };
  auto const d_x = by_coordinate("x", got.x, static_cast<Tensor<double, 2> const*>(nullptr), moved.x);
  auto const d_fc1 = by_coordinate("fc1", got.fc1, &start.fc1, moved.fc1);
  auto const d_fc2 = by_coordinate("fc2", got.fc2, &start.fc2, moved.fc2);
  Gradients<double> added{d_x.clone(), d_fc1.clone(), d_fc2.clone(), Tensor<double, 2>{problem.bias1.shape()},
                          Tensor<double, 2>{problem.bias2.shape()}};
  if (problem.biases) {
    added.bias1 = by_coordinate("bias1", got.bias1, &start.bias1, moved.bias1);
    added.bias2 = by_coordinate("bias2", got.bias2, &start.bias2, moved.bias2);
  }

  Index const directions = 4;
  Tensor<double, 1> by_gradient{Shape{directions}}, by_dual{Shape{directions}};
  for (Index k = 0; k < directions; ++k) {
    auto seed = 100 * static_cast<std::uint64_t>(k + 1);
    auto const move = [&](auto const& gradient, auto& input) {
      auto const along = test::random_tensor<double>(gradient.shape(), ++seed);
      for (Index i = 0; i < along.size(); ++i) {
        input.data()[i].tangent = along.data()[i];
        by_gradient(k) += along.data()[i] * gradient.data()[i];
      }
    };
    move(added.x, moved.x), move(added.fc1, moved.fc1), move(added.fc2, moved.fc2);
    move(added.bias1, moved.bias1), move(added.bias2, moved.bias2);
    by_dual(k) = slope(moved);
  }
  CHECK_CLOSE(verify::compare_scaled(by_gradient.view(), by_dual.view(), 1e-12));
}

}  // namespace

TEST_CASE("expert_mlp_backward: every gradient is that of dual numbers through the forward pass") {
  for (auto kind : {Activation::identity, Activation::relu, Activation::relu_squared, Activation::silu, Activation::gelu_erf,
                    Activation::gelu_tanh})
    for (bool gated : {false, true}) check_by_duals({{3, 0, 2}, 3, 4, kind, gated, true});
  check_by_duals({{4, 1}, 5, 2, Activation::silu, true, false});
}

TEST_CASE_TEMPLATE("expert_mlp_backward: every scalar and shape agrees with the double reference on every context", T, float,
                   double, half, bf16) {
  std::vector<std::vector<Index>> const counts{{}, {0}, {1}, {3, 0, 1}, {0, 40, 2, 5}};
  for (auto const& rows : counts)
    for (auto const& [D, F] : {std::pair<Index, Index>{1, 1}, {7, 9}, {8, 16}, {33, 17}})
      for (bool gated : {false, true})
        for (bool biases : {false, true}) {
          Problem<T> const problem{rows, D, F, gated ? Activation::gelu_erf : Activation::silu, gated, biases};
          auto const expected = problem.template as<double>().run(Reference{});
          check(Reference{}, problem, expected);
          check(Cpu{1}, problem, expected);
          check(Cpu{2}, problem, expected);
        }
}

TEST_CASE("expert_mlp_backward: every activation is the one that was asked for, with more rows than a tile holds") {
  for (auto kind : {Activation::identity, Activation::relu, Activation::relu_squared, Activation::silu, Activation::gelu_erf,
                    Activation::gelu_tanh}) {
    Problem<float> const problem{{3, 520}, 12, 20, kind, kind == Activation::silu, true};
    auto const expected = problem.as<double>().run(Reference{});
    check(Reference{}, problem, expected);
    check(Cpu{2}, problem, expected);
  }
}

TEST_CASE_TEMPLATE("expert_mlp_backward: one thread and two give the same bits", T, float, bf16) {
  for (bool gated : {false, true}) {
    Problem<T> const problem{{1, 300, 0, 17}, 70, 290, Activation::gelu_erf, gated, true};
    check_same(problem.run(Cpu{1}), problem.run(Cpu{2}));
  }
}

TEST_CASE("expert_mlp_backward: an absent gradient is not computed, the others are the same") {
  Problem<float> const problem{{5, 0, 9}, 10, 12, Activation::silu, true, true};
  auto const on = [&](auto const& ctx) {
    auto const all = problem.run(ctx), start = problem.start();
    for (int left_out = 0; left_out < 32; ++left_out) {
      INFO(concat(std::remove_cvref_t<decltype(ctx)>::name, ", left out ", left_out));
      auto some = problem.start();
      auto args = problem.args(some);
      if (left_out & 1) args.d_x = {};
      if (left_out & 2) args.d_fc1 = {};
      if (left_out & 4) args.d_bias1 = {};
      if (left_out & 8) args.d_fc2 = {};
      if (left_out & 16) args.d_bias2 = {};
      expert_mlp_backward(ctx, args);
      Gradients<float> const expected{(left_out & 1 ? start : all).x.clone(), (left_out & 2 ? start : all).fc1.clone(),
                                      (left_out & 8 ? start : all).fc2.clone(), (left_out & 4 ? start : all).bias1.clone(),
                                      (left_out & 16 ? start : all).bias2.clone()};
      check_same(some, expected);
    }
  };
  on(Reference{});
  on(Cpu{2});
}

TEST_CASE("expert_mlp_backward: rows of dropped assignments and experts without rows are left alone") {
  Problem<float> problem{{2, 0, 3}, 9, 11, Activation::relu, false, true, 4};
  for (Index r = 5; r < 9; ++r)
    for (Index d = 0; d < 9; ++d) problem.x(r, d) = problem.d_y(r, d) = std::nanf("");
  auto const on = [&](auto const& ctx) {
    auto const got = problem.run(ctx), start = problem.start();
    for (Index r = 0; r < 9; ++r)
      for (Index d = 0; d < 9; ++d) CHECK((r < 5 ? std::isfinite(got.x(r, d)) && got.x(r, d) != 77 : got.x(r, d) == 77));
    got.each(start, [](char const* name, auto const& after, auto const& before) {
      INFO(concat("gradient of ", name));
      for (Index i = 0; i < after.size(); ++i) CHECK(std::isfinite(after.data()[i]));
      if (after.extent(0) != 3) return;  // by row, not by expert
      Index const of_one = after.size() / 3;
      CHECK(std::equal(before.data() + of_one, before.data() + 2 * of_one, after.data() + of_one));
      CHECK_FALSE(std::equal(before.data(), before.data() + of_one, after.data()));
    });
  };
  on(Reference{});
  on(Cpu{2});
}

TEST_CASE("expert_mlp_backward: d_x may be d_y, and any strides give the same values") {
  Problem<float> const problem{{4, 290}, 10, 14, Activation::gelu_tanh, true, true};
  auto const on = [&](auto const& ctx) {
    auto const expected = problem.run(ctx);
    auto both = problem.start();
    both.x = problem.d_y.clone();
    auto args = problem.args(both);
    args.d_y = both.x;
    expert_mlp_backward(ctx, args);
    check_same(both, expected);
  };
  on(Reference{});
  on(Cpu{2});

  auto const turned = [](auto const& tensor, int a, int b) {
    return converted<float>(View<float const, std::remove_cvref_t<decltype(tensor)>::rank>{tensor}.transposed(a, b));
  };
  auto const expected = problem.as<double>().run(Reference{});
  auto const x = turned(problem.x.view(), 0, 1), d_y = turned(problem.d_y.view(), 0, 1);
  auto const fc1 = turned(problem.fc1.view(), 1, 2), fc2 = turned(problem.fc2.view(), 0, 2);
  auto start = problem.start();
  auto d_x = turned(start.x.view(), 0, 1), d_bias1 = turned(start.bias1.view(), 0, 1);
  auto d_fc1 = turned(start.fc1.view(), 0, 1), d_fc2 = turned(start.fc2.view(), 1, 2);
  auto args = problem.args(start);
  args.x = x.view().transposed(0, 1), args.d_y = d_y.view().transposed(0, 1);
  args.fc1 = fc1.view().transposed(1, 2), args.fc2 = fc2.view().transposed(0, 2);
  args.d_x = d_x.view().transposed(0, 1), args.d_bias1 = d_bias1.view().transposed(0, 1);
  args.d_fc1 = d_fc1.view().transposed(0, 1), args.d_fc2 = d_fc2.view().transposed(1, 2);
  expert_mlp_backward(Cpu{2}, args);
  check_close(problem, args.d_x, expected.x.view());
  check_close(problem, args.d_fc1, expected.fc1.view());
  check_close(problem, args.d_fc2, expected.fc2.view());
  check_close(problem, args.d_bias1, expected.bias1.view());
  check_close(problem, args.d_bias2, expected.bias2.view());
}

TEST_CASE("expert_mlp_backward: temporary memory is bounded, and a second pass allocates nothing") {
  Cpu const ctx{2};
  Problem<float> const few{{22000}, 16, 24, Activation::silu, true, true}, many{{50000}, 16, 24, Activation::silu, true, true};
  few.run(ctx);
  auto const peak = ctx.scratch().peak();
  many.run(ctx);
  CHECK(ctx.scratch().peak() == peak);
  ctx.scratch().seal();
  CHECK_NOTHROW(many.run(ctx));
}

TEST_CASE("expert_mlp_backward: no spread over experts takes more memory than all rows on one") {
  for (int const threads : {1, 2, 7}) {
    Cpu const ctx{threads};
    Problem<float>{{3000, 0, 0, 0, 0, 0}, 40, 24, Activation::silu, true, true}.run(ctx);
    ctx.scratch().seal();
    CHECK_NOTHROW((Problem<float>{{500, 500, 500, 500, 500, 500}, 40, 24, Activation::silu, true, true}.run(ctx)));
    CHECK_NOTHROW((Problem<float>{{1, 1600, 1100, 17, 0, 282}, 40, 24, Activation::silu, true, true}.run(ctx)));
  }
}

TEST_CASE_TEMPLATE("expert_mlp_backward: with the hidden values of the forward pass, the same bits on every context", T, float,
                   double, half, bf16) {
  auto const check_on = [](auto const& ctx) {
    for (bool const gated : {false, true})
      for (Index const rows : {3, 70, 300}) {
        Problem<T> const problem{{rows, 0, 1, rows}, 9, 11, Activation::gelu_erf, gated, true, 2};
        Tensor<T, 2> y{problem.x.shape()}, hidden{Shape<2>{problem.x.extent(0), problem.F1}};
        expert_mlp(ctx, ExpertMlpArgs<T>{.x = problem.x,
                                         .offsets = problem.offsets,
                                         .fc1 = problem.fc1,
                                         .bias1 = problem.bias1,
                                         .fc2 = problem.fc2,
                                         .bias2 = problem.bias2,
                                         .activation = problem.kind,
                                         .gated = gated,
                                         .y = y,
                                         .hidden = hidden});
        auto const kept = hidden.clone();
        auto got = problem.start();
        auto args = problem.args(got);
        args.hidden = hidden;
        expert_mlp_backward(ctx, args);
        check_same(got, problem.run(ctx));
        for (Index i = 0; i < hidden.size(); ++i) CHECK(widen(hidden.data()[i]) == widen(kept.data()[i]));
      }
  };
  check_on(Reference{}), check_on(Cpu{1}), check_on(Cpu{2});
}

TEST_CASE("expert_mlp_backward: arguments that disagree and offsets that do not rise are refused with their values") {
  Problem<float> problem{{2, 3}, 6, 4, Activation::silu, true, true};
  auto const refused = [&](char const* text) {
    auto got = problem.start();
    CHECK_THROWS_WITH_AS(expert_mlp_backward(Cpu{2}, problem.args(got)), text, value_error);
    CHECK_THROWS_WITH_AS(expert_mlp_backward(Reference{}, problem.args(got)), text, value_error);
    check_same(got, problem.start());
  };
  problem.offsets(0) = 1;
  refused("expert_mlp_backward: offsets[0] is 1, not 0");
  problem.offsets(0) = 0, problem.offsets(1) = 6;
  refused("expert_mlp_backward: offsets[2] is 5, below offsets[1], which is 6");
  problem.offsets(1) = 2, problem.offsets(2) = 6;
  refused("expert_mlp_backward: offsets[2] is 6, more than the 5 rows of x");
  problem.offsets(2) = 5, problem.kind = static_cast<Activation>(99);
  refused("expert_mlp_backward: kind is 99, which is no activation");
  problem.kind = Activation::silu;

  auto got = problem.start();
  auto args = problem.args(got);
  args.gated = false;
  CHECK_THROWS_WITH_AS(expert_mlp_backward(Reference{}, args),
                       "expert_mlp_backward: fc1 has shape (2, 8, 6), fc2 without a gate asks for (2, 4, 6): extent 1 is 8, not 4",
                       shape_error);
  auto const misshapen = [&](auto spoil, char const* text) {
    args = problem.args(got);
    spoil(args);
    CHECK_THROWS_WITH_AS(expert_mlp_backward(Cpu{2}, args), text, shape_error);
  };
  misshapen([](auto& a) { a.d_y = a.d_y.slice(0, 0, 4); },
            "expert_mlp_backward: d_y has shape (4, 6), x asks for (5, 6): extent 0 is 4, not 5");
  misshapen([](auto& a) { a.d_x = a.d_x.slice(1, 0, 5); },
            "expert_mlp_backward: d_x has shape (5, 5), x asks for (5, 6): extent 1 is 5, not 6");
  misshapen([](auto& a) { a.d_fc1 = a.d_fc1.slice(0, 0, 1); },
            "expert_mlp_backward: d_fc1 has shape (1, 8, 6), fc1 asks for (2, 8, 6): extent 0 is 1, not 2");
  misshapen([](auto& a) { a.d_bias1 = a.d_bias1.slice(1, 0, 4); },
            "expert_mlp_backward: d_bias1 has shape (2, 4), fc1 asks for (2, 8): extent 1 is 4, not 8");
  misshapen([](auto& a) { a.d_fc2 = a.d_fc2.slice(2, 0, 3); },
            "expert_mlp_backward: d_fc2 has shape (2, 6, 3), fc2 asks for (2, 6, 4): extent 2 is 3, not 4");
  misshapen([](auto& a) { a.d_bias2 = a.d_bias2.slice(1, 0, 5); },
            "expert_mlp_backward: d_bias2 has shape (2, 5), fc2 asks for (2, 6): extent 1 is 5, not 6");
}
