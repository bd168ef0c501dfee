#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>

#include <algorithm>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// Experts of random weights whose outputs have a magnitude of about one, and rows for them.
template <class T>
struct Problem {
  Index E, D, F, F1;
  Activation kind;
  bool gated, biases;
  Tensor<T, 2> x;
  Tensor<Index, 1> offsets;
  Tensor<T, 3> fc1, fc2;
  Tensor<T, 2> bias1, bias2;

  Problem(std::vector<Index> const& counts, Index D_, Index F_, Activation kind_, bool gated_, bool biases_, Index dropped = 0)
      : E{static_cast<Index>(counts.size())}, D{D_}, F{F_}, F1{gated_ ? 2 * F_ : F_}, kind{kind_}, gated{gated_}, biases{biases_} {
    offsets = Tensor<Index, 1>{Shape{E + 1}};
    for (Index e = 0; e < E; ++e) offsets(e + 1) = offsets(e) + counts[static_cast<std::size_t>(e)];
    x = test::random_tensor<T>(Shape{offsets(E) + dropped, D}, 1);
    fc1 = test::random_tensor<T>(Shape{E, F1, D}, 2, 1 / std::sqrt(static_cast<double>(D)));
    fc2 = test::random_tensor<T>(Shape{E, D, F}, 3, 1 / std::sqrt(static_cast<double>(F)));
    bias1 = test::random_tensor<T>(Shape{E, F1}, 4, 0.5);
    bias2 = test::random_tensor<T>(Shape{E, D}, 5, 0.5);
  }

  /// The same numbers in another scalar.
  template <class To>
  Problem<To> as() const {
    Problem<To> out{{}, D, F, kind, gated, biases};
    out.E = E;
    out.x = converted<To>(x), out.fc1 = converted<To>(fc1), out.fc2 = converted<To>(fc2);
    out.bias1 = converted<To>(bias1), out.bias2 = converted<To>(bias2);
    out.offsets = offsets.clone();
    return out;
  }

  ExpertMlpArgs<T> args(View<T, 2> y) const {
    return {.x = x,
            .offsets = offsets,
            .fc1 = fc1,
            .bias1 = biases ? bias1.view() : View<T const, 2>{},
            .fc2 = fc2,
            .bias2 = biases ? bias2.view() : View<T const, 2>{},
            .activation = kind,
            .gated = gated,
            .y = y};
  }

  template <class Ctx>
  Tensor<T, 2> run(Ctx const& ctx) const {
    Tensor<T, 2> y{x.shape()};
    expert_mlp(ctx, args(y));
    return y;
  }

  /// One sum over D, one over F; h, a and y are stored, and with a gate both halves of h reach a.
  verify::Cost cost() const { return {.terms = static_cast<double>(D + F), .roundings = gated ? 4.0 : 3.0}; }
};

template <class T, class Ctx>
void check(Ctx const& ctx, Problem<T> const& problem, Tensor<double, 2> const& expected) {
  INFO(concat(Ctx::name, ", D ", problem.D, ", F ", problem.F, ", ", to_string(problem.kind), ", gated ", problem.gated,
              ", biases ", problem.biases));
  CHECK_CLOSE(verify::compare(problem.run(ctx).view(), expected.view(), problem.cost()));
}

}  // namespace

TEST_CASE_TEMPLATE("expert_mlp: every scalar and shape agrees with the double reference on every context", T, float, double, half,
                   bf16) {
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

TEST_CASE("expert_mlp: every activation is the one that was asked for, with more rows than a tile holds") {
  for (auto kind : {Activation::identity, Activation::relu, Activation::relu_squared, Activation::silu, Activation::gelu_erf,
                    Activation::gelu_tanh}) {
    Problem<float> const problem{{3, 520}, 12, 20, kind, kind == Activation::silu, true};
    auto const expected = problem.as<double>().run(Reference{});
    check(Reference{}, problem, expected);
    check(Cpu{2}, problem, expected);
  }
}

TEST_CASE_TEMPLATE("expert_mlp: one thread and two give the same bits", T, float, bf16) {
  Problem<T> const problem{{1, 300, 0, 17}, 70, 90, Activation::gelu_erf, true, true};
  auto const one = problem.run(Cpu{1}), two = problem.run(Cpu{2});
  for (Index i = 0; i < one.size(); ++i) CHECK(widen(one.data()[i]) == widen(two.data()[i]));
}

TEST_CASE_TEMPLATE("expert_mlp: all experts at once equal each expert alone", T, float, bf16) {
  Problem<T> const problem{{5, 0, 1, 30}, 24, 40, Activation::silu, true, true};
  auto const alone = [&](auto const& ctx) {
    auto const together = problem.run(ctx);
    for (Index e = 0; e < problem.E; ++e) {
      Index const begin = problem.offsets(e), rows = problem.offsets(e + 1) - begin;
      Tensor<Index, 1> offsets{Shape{Index{2}}};
      offsets(1) = rows;
      Tensor<T, 2> y{Shape{rows, problem.D}};
      auto args = problem.args(y);
      args.x = problem.x.view().slice(0, begin, rows);
      args.offsets = offsets;
      args.fc1 = args.fc1.slice(0, e, 1), args.fc2 = args.fc2.slice(0, e, 1);
      args.bias1 = args.bias1.slice(0, e, 1), args.bias2 = args.bias2.slice(0, e, 1);
      expert_mlp(ctx, args);
      for (Index r = 0; r < rows; ++r)
        for (Index d = 0; d < problem.D; ++d) CHECK(widen(y(r, d)) == widen(together(begin + r, d)));
    }
  };
  alone(Reference{});
  alone(Cpu{2});
}

TEST_CASE("expert_mlp: rows of dropped assignments are neither read nor written") {
  Problem<float> problem{{2, 3}, 9, 11, Activation::relu, false, false, 4};
  for (Index r = 5; r < 9; ++r)
    for (Index d = 0; d < 9; ++d) problem.x(r, d) = std::nanf("");
  auto const untouched = [&](auto const& ctx) {
    Tensor<float, 2> y{problem.x.shape()};
    for (float& v : y) v = 77;
    expert_mlp(ctx, problem.args(y));
    for (Index r = 0; r < 9; ++r)
      for (Index d = 0; d < 9; ++d) CHECK((r < 5 ? std::isfinite(y(r, d)) && y(r, d) != 77 : y(r, d) == 77));
  };
  untouched(Reference{});
  untouched(Cpu{2});
}

TEST_CASE("expert_mlp: the output may be the input, and any strides give the same values") {
  Problem<float> const problem{{4, 290}, 10, 14, Activation::gelu_tanh, true, true};
  auto const check_ctx = [&](auto const& ctx) {
    auto const expected = problem.run(ctx);
    auto both = problem.x.clone();
    auto args = problem.args(both);
    args.x = both;
    expert_mlp(ctx, args);
    CHECK(std::equal(both.begin(), both.end(), expected.begin()));
  };
  check_ctx(Reference{});
  check_ctx(Cpu{2});

  auto const turned = [](auto const& tensor, int a, int b) {
    return converted<float>(View<float const, std::remove_cvref_t<decltype(tensor)>::rank>{tensor}.transposed(a, b));
  };
  auto const exact = problem.as<double>().run(Reference{});
  auto const x = turned(problem.x.view(), 0, 1);
  auto const fc1 = turned(problem.fc1.view(), 1, 2), fc2 = turned(problem.fc2.view(), 0, 2);
  Tensor<float, 2> y{Shape{problem.D, problem.x.extent(0)}};
  auto args = problem.args(y.view().transposed(0, 1));
  args.x = x.view().transposed(0, 1), args.fc1 = fc1.view().transposed(1, 2), args.fc2 = fc2.view().transposed(0, 2);
  expert_mlp(Cpu{2}, args);
  CHECK_CLOSE(verify::compare(args.y, exact.view(), problem.cost()));
}

TEST_CASE("expert_mlp: dual numbers carry the derivative through both maps and the gate") {
  using D = Dual<double>;
  Problem<double> const at{{2, 1}, 3, 4, Activation::silu, true, true};
  auto dual = at.as<D>();
  auto up = at.as<double>(), down = at.as<double>();
  double const h = 0x1p-17;  // a central difference is then good to about h²
  std::uint64_t seed = 20;
  auto const move = [&](auto member) {
    auto const along = test::random_tensor<double>(Shape{member(at).size()}, ++seed);
    for (Index i = 0; i < along.size(); ++i) {
      member(dual).data()[i].tangent = along(i);
      member(up).data()[i] += h * along(i);
      member(down).data()[i] -= h * along(i);
    }
  };
  move([](auto& p) -> auto& { return p.x; });
  move([](auto& p) -> auto& { return p.fc1; });
  move([](auto& p) -> auto& { return p.fc2; });
  move([](auto& p) -> auto& { return p.bias1; });
  move([](auto& p) -> auto& { return p.bias2; });
  auto const y = dual.run(Cpu{2});
  auto const above = up.run(Reference{}), below = down.run(Reference{});
  for (Index i = 0; i < y.size(); ++i) {
    double const difference = (above.data()[i] - below.data()[i]) / (2 * h);
    CHECK(y.data()[i].tangent == doctest::Approx(difference).epsilon(64 * h * h));
  }
}

TEST_CASE("expert_mlp: arguments that disagree and offsets that do not rise are refused with their values") {
  Problem<float> problem{{2, 3}, 6, 4, Activation::silu, true, true};
  Tensor<float, 2> y{problem.x.shape()};
  auto const refused = [&](char const* text) {
    CHECK_THROWS_WITH_AS(expert_mlp(Cpu{2}, problem.args(y)), text, value_error);
    CHECK_THROWS_WITH_AS(expert_mlp(Reference{}, problem.args(y)), text, value_error);
    for (float v : y) CHECK(v == 0);
  };
  problem.offsets(0) = 1;
  refused("expert_mlp: offsets[0] is 1, not 0");
  problem.offsets(0) = 0, problem.offsets(1) = 6;
  refused("expert_mlp: offsets[2] is 5, below offsets[1], which is 6");
  problem.offsets(1) = 2, problem.offsets(2) = 6;
  refused("expert_mlp: offsets[2] is 6, more than the 5 rows of x");
  problem.offsets(2) = 5, problem.kind = static_cast<Activation>(99);
  refused("expert_mlp: kind is 99, which is no activation");
  problem.kind = Activation::silu;
  auto args = problem.args(y);
  args.gated = false;
  CHECK_THROWS_WITH_AS(expert_mlp(Reference{}, args),
                       "expert_mlp: fc1 has shape (2, 8, 6), fc2 without a gate asks for (2, 4, 6): extent 1 is 8, not 4",
                       shape_error);
}
