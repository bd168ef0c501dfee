#include <blackmamba/ops/dispatch/backward.hpp>

#include <algorithm>
#include <tuple>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// Tokens sorted to experts, with their gathered rows, weights and the gradients of either end.
template <class T>
struct Problem {
  Index tokens, k, D;
  Tensor<Index, 1> order;
  Tensor<Index, 2> places;
  Tensor<T, 2> tokens_by_D, rows_by_D;  ///< a gradient by token, values by place
  Tensor<accumulator_t<T>, 2> weights;

  Problem(Index tokens_, Index k_, Index D_, bool drops) : tokens{tokens_}, k{k_}, D{D_} {
    Index const E = 5;
    Tensor<int, 2> experts{Shape{tokens, k}};
    Random const random{11};
    for (Index i = 0; i < experts.size(); ++i) {
      auto const at = static_cast<std::uint64_t>(i);
      experts.data()[i] = drops && random.below(2 * at, 4) == 0 ? -1 : static_cast<int>(random.below(2 * at + 1, E));
    }
    Tensor<Index, 1> offsets{Shape{E + 1}};
    order = Tensor<Index, 1>{Shape{tokens * k}};
    places = Tensor<Index, 2>{Shape{tokens, k}};
    dispatch(Reference{}, DispatchArgs{.experts = experts, .offsets = offsets, .order = order, .places = places});
    tokens_by_D = test::random_tensor<T>(Shape{tokens, D}, 1);
    rows_by_D = test::random_tensor<T>(Shape{tokens * k, D}, 2);
    weights = test::random_tensor<accumulator_t<T>>(Shape{tokens, k}, 3);
    // What is not read may be anything.
    for (Index i = 0; i < weights.size(); ++i)
      if (places.data()[i] < 0) weights.data()[i] = static_cast<accumulator_t<T>>(HUGE_VALF);
    for (Index p = offsets(E); p < tokens * k; ++p)
      for (Index d = 0; d < D; ++d) rows_by_D(p, d) = static_cast<T>(accumulator_t<T>(HUGE_VALF));
  }

  template <class To>
  Problem<To> as() const {
    Problem<To> out{tokens, k, D, false};
    out.order = order.clone(), out.places = places.clone();
    out.tokens_by_D = converted<To>(tokens_by_D), out.rows_by_D = converted<To>(rows_by_D);
    out.weights = converted<accumulator_t<To>>(weights);
    return out;
  }

  template <class Ctx>
  Tensor<T, 2> gather_backward(Ctx const& ctx) const {
    auto d_x = untouched<T>(tokens_by_D.shape());
    gather_tokens_backward(ctx, GatherBackwardArgs<T>{.places = places, .d_y = rows_by_D, .d_x = d_x});
    return d_x;
  }

  struct Gradients {
    Tensor<T, 2> d_x;
    Tensor<accumulator_t<T>, 2> d_weights;
  };
  template <class Ctx>
  Gradients combine_backward(Ctx const& ctx) const {
    Gradients out{untouched<T>(rows_by_D.shape()), untouched<accumulator_t<T>>(weights.shape())};
    blackmamba::combine_backward(ctx, args(out));
    return out;
  }
  CombineBackwardArgs<T> args(Gradients& out) const {
    return {.x = rows_by_D, .places = places, .weights = weights, .d_y = tokens_by_D, .d_x = out.d_x, .d_weights = out.d_weights};
  }

 private:
  template <class S>
  static Tensor<S, 2> untouched(Shape<2> shape) {
    Tensor<S, 2> out{shape};
    for (S& v : out) v = static_cast<S>(accumulator_t<S>(77));
    return out;
  }
};

template <class A, class B>
double dot(A const& a, B const& b) {
  double sum = 0;
  for (Index i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
  return sum;
}

}  // namespace

TEST_CASE("gather_tokens_backward: the gradient is that of dual numbers through the gather") {
  using D = Dual<double>;
  Problem<double> p{13, 3, 4, true};
  // The gather leaves rows without an assignment alone, so they add nothing to a loss.
  for (Index i = 0; i < p.rows_by_D.size(); ++i)
    if (p.order(i / p.D) < 0) p.rows_by_D.data()[i] = 0;
  auto const got = p.gather_backward(Reference{});
  auto const slope = [&](View<double const, 2> along) {
    Tensor<D, 2> x{p.tokens_by_D.shape()}, y{p.rows_by_D.shape()};
    for (Index t = 0; t < p.tokens; ++t)
      for (Index d = 0; d < p.D; ++d) x(t, d) = D{0.5, along(t, d)};
    gather_tokens(Reference{}, GatherArgs<D>{.x = x, .order = p.order, .slots = p.k, .y = y});
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i].tangent * p.rows_by_D.data()[i];
    return sum;
  };
  Tensor<double, 2> expected{got.shape()};
  for (Index i = 0; i < got.size(); ++i) {
    Tensor<double, 2> along{got.shape()};
    along.data()[i] = 1;
    expected.data()[i] = slope(along);
  }
  CHECK_CLOSE(verify::compare_scaled(got.view(), expected.view(), 1e-12));
  Tensor<double, 1> by_gradient{Shape{Index{4}}}, by_dual{Shape{Index{4}}};
  for (Index i = 0; i < 4; ++i) {
    auto const along = test::random_tensor<double>(got.shape(), 20 + static_cast<std::uint64_t>(i));
    by_gradient(i) = dot(got, along), by_dual(i) = slope(along);
  }
  CHECK_CLOSE(verify::compare_scaled(by_gradient.view(), by_dual.view(), 1e-12));
}

TEST_CASE("combine_backward: the gradients are those of dual numbers through the combination") {
  using D = Dual<double>;
  Problem<double> const p{11, 3, 4, true};
  auto const got = p.combine_backward(Reference{});
  auto const slope = [&](View<double const, 2> along_x, View<double const, 2> along_weights) {
    Tensor<D, 2> x{p.rows_by_D.shape()}, weights{p.weights.shape()}, y{p.tokens_by_D.shape()};
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = D{p.rows_by_D.data()[i], along_x.data()[i]};
    for (Index i = 0; i < weights.size(); ++i) weights.data()[i] = D{p.weights.data()[i], along_weights.data()[i]};
    combine(Reference{}, CombineArgs<D>{.x = x, .places = p.places, .weights = weights, .y = y});
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i].tangent * p.tokens_by_D.data()[i];
    return sum;
  };
  Tensor<double, 2> const no_x{p.rows_by_D.shape()}, no_weights{p.weights.shape()};
  auto d_x = no_x.clone(), d_weights = no_weights.clone();
  for (Index i = 0; i < d_x.size(); ++i) {
    auto along = no_x.clone();
    along.data()[i] = 1;
    d_x.data()[i] = p.order(i / p.D) < 0 ? 77 : slope(along, no_weights);
  }
  for (Index i = 0; i < d_weights.size(); ++i) {
    auto along = no_weights.clone();
    along.data()[i] = 1;
    d_weights.data()[i] = slope(no_x, along);
  }
  // A row that no place names stays as it was, and must not lend the others its size.
  auto used = got.d_x.clone();
  for (Index i = 0; i < used.size(); ++i)
    if (p.order(i / p.D) < 0) {
      CHECK(used.data()[i] == 77);
      used.data()[i] = d_x.data()[i] = 0;
    }
  CHECK_CLOSE(verify::compare_scaled(used.view(), d_x.view(), 1e-12));
  CHECK_CLOSE(verify::compare_scaled(got.d_weights.view(), d_weights.view(), 1e-12));

  Tensor<double, 1> by_gradient{Shape{Index{4}}}, by_dual{Shape{Index{4}}};
  for (Index i = 0; i < 4; ++i) {
    auto const seed = 20 + 2 * static_cast<std::uint64_t>(i);
    auto const along_x = test::random_tensor<double>(no_x.shape(), seed);
    auto const along_weights = test::random_tensor<double>(no_weights.shape(), seed + 1);
    by_gradient(i) = dot(used, along_x) + dot(got.d_weights, along_weights);
    by_dual(i) = slope(along_x, along_weights);
  }
  CHECK_CLOSE(verify::compare_scaled(by_gradient.view(), by_dual.view(), 1e-12));
}

TEST_CASE_TEMPLATE("dispatch_backward: every scalar and shape agrees with the double reference, with the same bits on two threads",
                   T, float, double, half, bf16) {
  auto const same = [](auto const& a, auto const& b) {
    for (Index i = 0; i < a.size(); ++i) CHECK(widen(a.data()[i]) == widen(b.data()[i]));
  };
  auto const check = [&](Index tokens, Index k, Index D, bool drops) {
    INFO(concat("tokens ", tokens, ", k ", k, ", D ", D, ", drops ", drops));
    Problem<T> const p{tokens, k, D, drops};
    auto const exact = p.template as<double>();
    auto const of_gather = exact.gather_backward(Reference{});
    auto const of_combine = exact.combine_backward(Reference{});
    verify::Cost const of_slots{.terms = static_cast<double>(k)}, of_rows{}, of_dots{.terms = static_cast<double>(D), .scale = 1};
    auto const on = [&](auto const& ctx) {
      auto const gathered = p.gather_backward(ctx);
      CHECK_CLOSE(verify::compare(gathered.view(), of_gather.view(), of_slots));
      auto combined = p.combine_backward(ctx);
      CHECK_CLOSE(verify::compare(combined.d_x.view(), of_combine.d_x.view(), of_rows));
      CHECK_CLOSE(verify::compare(combined.d_weights.view(), of_combine.d_weights.view(), of_dots));
      return std::tuple{gathered.clone(), combined.d_x.clone(), combined.d_weights.clone()};
    };
    on(Reference{});
    auto const one = on(Cpu{1}), two = on(Cpu{2});
    same(std::get<0>(one), std::get<0>(two));
    same(std::get<1>(one), std::get<1>(two));
    same(std::get<2>(one), std::get<2>(two));
  };
  for (auto const& [tokens, k] : {std::pair<Index, Index>{0, 1}, {1, 1}, {5, 0}, {37, 2}})
    for (Index D : {0, 1, 3, 4, 7, 8, 9, 31})
      for (bool drops : {false, true}) check(tokens, k, D, drops);
  check(700, 3, 61, true);
}

TEST_CASE("combine_backward: an absent gradient is not computed, the other is the same, and d_x may be x") {
  Problem<float> const p{30, 2, 11, true};
  auto const on = [&](auto const& ctx) {
    auto both = p.combine_backward(ctx);
    auto one = p.combine_backward(Reference{});
    auto args = p.args(one);
    for (float& v : one.d_x) v = 77;
    args.d_weights = {};
    combine_backward(ctx, args);
    CHECK(std::equal(both.d_x.begin(), both.d_x.end(), one.d_x.begin()));
    args = p.args(one);
    for (float& v : one.d_weights) v = 77;
    args.d_x = {};
    combine_backward(ctx, args);
    CHECK(std::equal(both.d_weights.begin(), both.d_weights.end(), one.d_weights.begin()));

    auto x = p.rows_by_D.clone();
    for (float& v : one.d_weights) v = 77;
    args = p.args(one);
    args.x = x, args.d_x = x;
    combine_backward(ctx, args);
    for (Index i = 0; i < x.size(); ++i) CHECK(x.data()[i] == (p.order(i / p.D) < 0 ? p.rows_by_D.data()[i] : both.d_x.data()[i]));
    CHECK(std::equal(both.d_weights.begin(), both.d_weights.end(), one.d_weights.begin()));
  };
  on(Reference{});
  on(Cpu{2});
}

TEST_CASE("dispatch_backward: strided views give the same values") {
  Problem<float> const p{30, 2, 11, true};
  auto const gathered = p.gather_backward(Reference{});
  auto combined = p.combine_backward(Reference{});
  auto const rows = converted<float>(p.rows_by_D.view().transposed(0, 1));
  auto const tokens = converted<float>(p.tokens_by_D.view().transposed(0, 1));
  auto const places = converted<Index>(p.places.view().transposed(0, 1));
  auto const weights = converted<float>(p.weights.view().transposed(0, 1));
  Tensor<float, 2> d_tokens{tokens.shape()}, d_rows{rows.shape()}, d_weights{weights.shape()};
  for (float& v : d_rows) v = 77;
  gather_tokens_backward(Cpu{2}, GatherBackwardArgs<float>{.places = places.view().transposed(0, 1),
                                                           .d_y = rows.view().transposed(0, 1),
                                                           .d_x = d_tokens.view().transposed(0, 1)});
  combine_backward(Cpu{2}, CombineBackwardArgs<float>{.x = rows.view().transposed(0, 1),
                                                      .places = places.view().transposed(0, 1),
                                                      .weights = weights.view().transposed(0, 1),
                                                      .d_y = tokens.view().transposed(0, 1),
                                                      .d_x = d_rows.view().transposed(0, 1),
                                                      .d_weights = d_weights.view().transposed(0, 1)});
  auto const same = [](View<float const, 2> turned, View<float const, 2> plain) {
    for (Index i = 0; i < plain.extent(0); ++i)
      for (Index j = 0; j < plain.extent(1); ++j) CHECK(turned(j, i) == plain(i, j));
  };
  same(d_tokens, gathered);
  same(d_rows, combined.d_x);
  same(d_weights, combined.d_weights);
}

TEST_CASE("dispatch_backward: places outside their range and extents that disagree are refused with their values") {
  Tensor<float, 2> by_place{Shape{Index{4}, Index{3}}}, by_token{Shape{Index{2}, Index{3}}}, weights{Shape{Index{2}, Index{2}}};
  Tensor<float, 2> d_x{by_place.shape()}, d_weights{weights.shape()};
  Tensor<Index, 2> places{weights.shape()};
  for (float& v : d_x) v = 7;
  auto const combine_args = CombineBackwardArgs<float>{
      .x = by_place, .places = places, .weights = weights, .d_y = by_token, .d_x = d_x, .d_weights = d_weights};
  auto const gather_args = GatherBackwardArgs<float>{.places = places, .d_y = by_place, .d_x = by_token};
  for (Index i = 0; i < 3; ++i) places.data()[i] = i;
  for (Index wrong : {4, -2}) {
    places(1, 1) = wrong;
    auto const tail = concat("the place of token 1, slot 1 is ", wrong, ", outside -1 to 3");
    auto const of_combine = concat("combine_backward: ", tail), of_gather = concat("gather_tokens_backward: ", tail);
    CHECK_THROWS_WITH_AS(combine_backward(Cpu{2}, combine_args), of_combine.c_str(), value_error);
    CHECK_THROWS_WITH_AS(combine_backward(Reference{}, combine_args), of_combine.c_str(), value_error);
    CHECK_THROWS_WITH_AS(gather_tokens_backward(Cpu{2}, gather_args), of_gather.c_str(), value_error);
    CHECK_THROWS_WITH_AS(gather_tokens_backward(Reference{}, gather_args), of_gather.c_str(), value_error);
  }
  for (float v : d_x) CHECK(v == 7);

  auto args = combine_args;
  args.d_x = by_token;
  CHECK_THROWS_WITH_AS(combine_backward(Cpu{2}, args),
                       "combine_backward: d_x has shape (2, 3), x asks for (4, 3): extent 0 is 2, not 4", shape_error);
  args = combine_args;
  args.d_weights = by_token;
  CHECK_THROWS_WITH_AS(combine_backward(Cpu{2}, args),
                       "combine_backward: d_weights has shape (2, 3), places asks for (2, 2): extent 1 is 3, not 2", shape_error);
  args = combine_args;
  args.d_y = by_place;
  CHECK_THROWS_AS(combine_backward(Cpu{2}, args), shape_error);
  auto wrong = gather_args;
  wrong.d_y = by_token;
  CHECK_THROWS_WITH_AS(gather_tokens_backward(Cpu{2}, wrong),
                       "gather_tokens_backward: d_y has shape (2, 3), places asks for (4, 3): extent 0 is 2, not 4", shape_error);
}
