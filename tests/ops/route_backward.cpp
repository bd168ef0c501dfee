#include <blackmamba/ops/route/backward.hpp>

#include <algorithm>
#include <utility>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// Logits, a choice by the rule itself of which `dropped` of four assignments are dropped afterwards, and a gradient of the
/// weights.
template <class T>
struct Problem {
  Tensor<T, 2> logits;
  Tensor<int, 2> experts;
  Tensor<accumulator_t<T>, 2> d_weights;
  bool normalise;
};

template <class T, class Rule>
Problem<T> problem(Rule const& rule, Index tokens, Index E, Index k, bool normalise, int dropped) {
  Problem<T> out{test::random_tensor<T>(Shape{tokens, E}, 1, 2), Tensor<int, 2>{Shape{tokens, k}},
                 test::random_tensor<accumulator_t<T>>(Shape{tokens, k}, 2), normalise};
  Tensor<accumulator_t<T>, 2> weights{Shape{tokens, k}};
  rule(Reference{}, RouteArgs<T>{.logits = out.logits, .experts = out.experts, .weights = weights, .normalise = normalise});
  Random const random{3};
  for (Index i = 0; i < out.experts.size(); ++i)
    if (random.below(static_cast<std::uint64_t>(i), 4) < dropped) {
      out.experts.data()[i] = -1;
      // What is not read may be anything.
      out.d_weights.data()[i] = static_cast<accumulator_t<T>>(HUGE_VALF);
    }
  return out;
}

template <class To, class T>
Problem<To> as(Problem<T> const& p) {
  return {converted<To>(p.logits), p.experts.clone(), converted<accumulator_t<To>>(p.d_weights), p.normalise};
}

template <class T, class Backward, class Ctx>
Tensor<T, 2> run(Backward const& backward, Ctx const& ctx, Problem<T> const& p) {
  Tensor<T, 2> out{p.logits.shape()};
  for (T& v : out) v = static_cast<T>(accumulator_t<T>(77));
  backward(ctx, RouteBackwardArgs<T>{
                    .logits = p.logits, .experts = p.experts, .d_weights = p.d_weights, .normalise = p.normalise, .d_logits = out});
  return out;
}

template <class T, class Rule, class Backward>
void check(Rule const& rule, Backward const& backward, Index tokens, Index E, Index k, bool normalise, int dropped) {
  INFO(concat("tokens ", tokens, ", E ", E, ", k ", k, ", normalise ", normalise, ", dropped ", dropped, " of 4"));
  auto const p = problem<T>(rule, tokens, E, k, normalise, dropped);
  auto const expected = run<double>(backward, Reference{}, as<double>(p));
  // A gradient is a probability times a difference of numbers of the size of d_weights, which may cancel; a softmax over one logit
  // leaves nothing else.
  auto const cost = verify::Cost{.terms = static_cast<double>(E), .scale = 1};
  auto const plain = run<T>(backward, Reference{}, p), one = run<T>(backward, Cpu{1}, p), two = run<T>(backward, Cpu{2}, p);
  CHECK_CLOSE(verify::compare(plain.view(), expected.view(), cost));
  CHECK_CLOSE(verify::compare(one.view(), expected.view(), cost));
  for (Index i = 0; i < one.size(); ++i) CHECK(widen(one.data()[i]) == widen(two.data()[i]));
}

/// The gradient of Σ d_weights · weights over the slots that are kept, by dual numbers through the rule: one coordinate after the
/// other, and in one random direction a token.
template <class Rule, class Backward>
void check_by_duals(Rule const& rule, Backward const& backward, Index tokens, Index E, Index k, bool normalise, int dropped) {
  using D = Dual<double>;
  INFO(concat("tokens ", tokens, ", E ", E, ", k ", k, ", normalise ", normalise, ", dropped ", dropped, " of 4"));
  auto const p = problem<double>(rule, tokens, E, k, normalise, dropped);
  auto const got = run<double>(backward, Reference{}, p);
  auto const slope = [&](View<double const, 2> along) {
    Tensor<D, 2> logits{p.logits.shape()}, weights{p.experts.shape()};
    Tensor<int, 2> experts{p.experts.shape()};
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j < E; ++j) logits(i, j) = D{p.logits(i, j), along(i, j)};
    rule(Reference{}, RouteArgs<D>{.logits = logits, .experts = experts, .weights = weights, .normalise = normalise});
    Tensor<double, 1> out{Shape{tokens}};
    for (Index i = 0; i < tokens; ++i)
      for (Index s = 0; s < k; ++s)
        if (p.experts(i, s) >= 0) out(i) += p.d_weights(i, s) * weights(i, s).tangent;
    return out;
  };

  Tensor<double, 2> by_coordinate{p.logits.shape()};
  for (Index j = 0; j < E; ++j) {
    Tensor<double, 2> along{p.logits.shape()};
    for (Index i = 0; i < tokens; ++i) along(i, j) = 1;
    auto const slopes = slope(along);
    for (Index i = 0; i < tokens; ++i) by_coordinate(i, j) = slopes(i);
  }
  CHECK_CLOSE(verify::compare_scaled(got.view(), by_coordinate.view(), 1e-12));

  auto const along = test::random_tensor<double>(p.logits.shape(), 4);
  Tensor<double, 1> by_gradient{Shape{tokens}};
  for (Index i = 0; i < tokens; ++i)
    for (Index j = 0; j < E; ++j) by_gradient(i) += got(i, j) * along(i, j);
  CHECK_CLOSE(verify::compare_scaled(by_gradient.view(), slope(along).view(), 1e-12));
}

}  // namespace

TEST_CASE("route_backward: gradients are those of dual numbers through the rules, dropped slots included") {
  for (int dropped : {0, 2}) {
    for (Index E : {1, 2, 5, 16}) check_by_duals(route_top1_sigmoid, route_top1_sigmoid_backward, 40, E, 1, true, dropped);
    for (bool normalise : {false, true})
      for (auto const& [E, k] : {std::pair<Index, Index>{2, 1}, {2, 2}, {7, 3}, {16, 2}, {9, 9}})
        check_by_duals(route_top_k_softmax, route_top_k_softmax_backward, 40, E, k, normalise, dropped);
  }
}

TEST_CASE_TEMPLATE("route_backward: every scalar and shape agrees with the double reference, with the same bits on two threads", T,
                   float, double, half, bf16) {
  for (Index tokens : {0, 1, 3001})
    for (Index E : {1, 2, 7, 8, 9})
      for (int dropped : {0, 2}) {
        check<T>(route_top1_sigmoid, route_top1_sigmoid_backward, tokens, E, 1, true, dropped);
        for (bool normalise : {false, true})
          for (Index k : {Index{1}, E})
            check<T>(route_top_k_softmax, route_top_k_softmax_backward, tokens, E, k, normalise, dropped);
      }
}

TEST_CASE("route_plan_sigmoid_backward: the gate of the plan's expert carries all of the gradient") {
  using D = Dual<double>;
  Index const tokens = 20, E = 6;
  auto const logits = test::random_tensor<double>(Shape{tokens, E}, 1, 2), plan = test::random_tensor<double>(Shape{tokens, E}, 2);
  auto const d_weights = test::random_tensor<double>(Shape{tokens, Index{1}}, 3);
  Tensor<int, 2> experts{Shape{tokens, Index{1}}};
  Tensor<double, 2> expected{logits.shape()}, got{logits.shape()};
  for (Index j = 0; j < E; ++j) {
    Tensor<D, 2> moved{logits.shape()}, weights{experts.shape()};
    for (Index i = 0; i < tokens; ++i)
      for (Index c = 0; c < E; ++c) moved(i, c) = D{logits(i, c), c == j ? 1.0 : 0.0};
    auto const moved_plan = converted<D>(plan);
    route_plan_sigmoid(Reference{}, RoutePlanArgs<D>{.plan = moved_plan, .logits = moved, .experts = experts, .weights = weights});
    for (Index i = 0; i < tokens; ++i) expected(i, j) = d_weights(i, 0) * weights(i, 0).tangent;
  }
  route_plan_sigmoid_backward(
      Cpu{2}, RouteBackwardArgs<double>{.logits = logits, .experts = experts, .d_weights = d_weights, .d_logits = got});
  CHECK_CLOSE(verify::compare_scaled(got.view(), expected.view(), 1e-12));
}

TEST_CASE("route_top1_sigmoid_backward: the slope of a gate that is nearly open does not cancel") {
  Tensor<double, 2> logits{Shape{Index{1}, Index{1}}}, d_weights{logits.shape()}, d_logits{logits.shape()};
  Tensor<int, 2> experts{logits.shape()};
  d_weights(0, 0) = 1;
  for (double x : {40.0, -40.0}) {
    logits(0, 0) = x;
    route_top1_sigmoid_backward(
        Reference{}, RouteBackwardArgs<double>{.logits = logits, .experts = experts, .d_weights = d_weights, .d_logits = d_logits});
    CHECK(d_logits(0, 0) == doctest::Approx(std::exp(-40.0)).epsilon(8 * scalar_traits<double>::unit_roundoff));
  }
}

TEST_CASE("route_top_k_softmax_backward: a masked expert gets no gradient, huge logits do not overflow") {
  Tensor<float, 2> logits{Shape{Index{1}, Index{4}}}, d_weights{Shape{Index{1}, Index{3}}}, d_logits{logits.shape()};
  Tensor<int, 2> experts{d_weights.shape()};
  logits(0, 0) = -HUGE_VALF, logits(0, 1) = logits(0, 3) = 3e38f, logits(0, 2) = -HUGE_VALF;
  experts(0, 0) = 1, experts(0, 1) = 3, experts(0, 2) = 0;
  d_weights(0, 0) = 4, d_weights(0, 2) = 5;
  for (bool normalise : {false, true}) {
    route_top_k_softmax_backward(
        Cpu{2}, RouteBackwardArgs<float>{
                    .logits = logits, .experts = experts, .d_weights = d_weights, .normalise = normalise, .d_logits = d_logits});
    float const expected[]{0, 1, 0, -1};
    CHECK(std::equal(d_logits.begin(), d_logits.end(), expected));
  }
}

TEST_CASE("route_backward: strided views give the same values") {
  auto const p = problem<float>(route_top_k_softmax, 40, 6, 2, false, 1);
  auto const expected = run<float>(route_top_k_softmax_backward, Reference{}, p);
  auto const logits = converted<float>(p.logits.view().transposed(0, 1));
  auto const experts = converted<int>(p.experts.view().transposed(0, 1));
  auto const d_weights = converted<float>(p.d_weights.view().transposed(0, 1));
  Tensor<float, 2> d_logits{logits.shape()};
  route_top_k_softmax_backward(Cpu{2}, RouteBackwardArgs<float>{.logits = logits.view().transposed(0, 1),
                                                                .experts = experts.view().transposed(0, 1),
                                                                .d_weights = d_weights.view().transposed(0, 1),
                                                                .normalise = false,
                                                                .d_logits = d_logits.view().transposed(0, 1)});
  for (Index i = 0; i < 40; ++i)
    for (Index j = 0; j < 6; ++j) CHECK(d_logits(j, i) == expected(i, j));
}

TEST_CASE("route_backward: what no rule can have written is refused, with the values, and nothing is written") {
  Tensor<float, 2> logits{Shape{Index{2}, Index{3}}}, d_weights{Shape{Index{2}, Index{1}}}, many{Shape{Index{2}, Index{4}}};
  Tensor<float, 2> d_logits{logits.shape()};
  Tensor<int, 2> experts{Shape{Index{2}, Index{1}}}, slots{Shape{Index{2}, Index{4}}};
  for (float& v : d_logits) v = 7;
  auto const args = RouteBackwardArgs<float>{.logits = logits, .experts = experts, .d_weights = d_weights, .d_logits = d_logits};
  experts(1, 0) = 3;
  CHECK_THROWS_WITH_AS(route_top1_sigmoid_backward(Cpu{2}, args),
                       "route_top1_sigmoid_backward: the expert of token 1, slot 0 is 3, outside -1 to 2", value_error);
  CHECK_THROWS_WITH_AS(route_plan_sigmoid_backward(Cpu{2}, args),
                       "route_plan_sigmoid_backward: the expert of token 1, slot 0 is 3, outside -1 to 2", value_error);
  experts(1, 0) = -2;
  CHECK_THROWS_WITH_AS(route_top_k_softmax_backward(Reference{}, args),
                       "route_top_k_softmax_backward: the expert of token 1, slot 0 is -2, outside -1 to 2", value_error);
  experts(1, 0) = -1, logits(1, 2) = std::nanf("");
  CHECK_THROWS_WITH_AS(route_top_k_softmax_backward(Cpu{2}, args),
                       "route_top_k_softmax_backward: the logit of token 1 for expert 2 is NaN", value_error);
  for (float v : d_logits) CHECK(v == 7);

  auto wide = args;
  wide.experts = slots, wide.d_weights = many;
  CHECK_THROWS_WITH_AS(route_top_k_softmax_backward(Reference{}, wide),
                       "route_top_k_softmax_backward: experts has 4 slots for a token, outside 1 to the 3 experts of logits",
                       value_error);
  CHECK_THROWS_WITH_AS(route_top1_sigmoid_backward(Reference{}, wide),
                       "route_top1_sigmoid_backward: experts has 4 slots for a token, the rule fills 1", value_error);
  wide = args;
  wide.d_logits = many;
  CHECK_THROWS_WITH_AS(route_top_k_softmax_backward(Reference{}, wide),
                       "route_top_k_softmax_backward: d_logits has shape (2, 4), logits asks for (2, 3): extent 1 is 4, not 3",
                       shape_error);
  wide = args;
  wide.d_weights = many;
  CHECK_THROWS_AS(route_plan_sigmoid_backward(Reference{}, wide), shape_error);
}
