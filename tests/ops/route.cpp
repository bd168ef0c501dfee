#include <blackmamba/ops/activation/functions.hpp>
#include <blackmamba/ops/route/route.hpp>

#include <algorithm>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

template <class A>
struct Routed {
  Tensor<int, 2> experts;
  Tensor<A, 2> weights;
};

template <class Rule, class Ctx, class T>
Routed<accumulator_t<T>> run(Rule const& rule, Ctx const& ctx, View<T const, 2> logits, Index k, bool normalise = true) {
  Routed<accumulator_t<T>> out{Tensor<int, 2>{Shape{logits.extent(0), k}}, Tensor<accumulator_t<T>, 2>{Shape{logits.extent(0), k}}};
  rule(ctx, RouteArgs<T>{.logits = logits, .experts = out.experts, .weights = out.weights, .normalise = normalise});
  return out;
}

/// The same choice as the double reference, weights within the table, slots in descending order.
template <class T, class Rule, class Ctx>
void check(Rule const& rule, Ctx const& ctx, Index tokens, Index E, Index k, bool normalise) {
  INFO(concat(Ctx::name, ", tokens ", tokens, ", E ", E, ", k ", k, ", normalise ", normalise));
  auto const logits = test::random_tensor<T>(Shape{tokens, E}, 1, 2);
  auto const exact_logits = converted<double>(logits);
  auto const got = run<Rule, Ctx, T>(rule, ctx, logits, k, normalise);
  auto const expected = run<Rule, Reference, double>(rule, Reference{}, exact_logits, k, normalise);
  CHECK(std::equal(got.experts.begin(), got.experts.end(), expected.experts.begin()));
  CHECK_CLOSE(verify::compare(got.weights.view(), expected.weights.view(), verify::Cost{.terms = static_cast<double>(E)}));
}

}  // namespace

TEST_CASE_TEMPLATE("route: every scalar and shape agrees with the double reference on every context", T, float, double, half,
                   bf16) {
  for (Index tokens : {0, 1, 7, 3001})
    for (Index E : {1, 2, 7, 8, 9}) {
      check<T>(route_top1_sigmoid, Reference{}, tokens, E, 1, true);
      check<T>(route_top1_sigmoid, Cpu{1}, tokens, E, 1, true);
      check<T>(route_top1_sigmoid, Cpu{2}, tokens, E, 1, true);
      for (Index k : {Index{1}, E}) {
        check<T>(route_top_k_softmax, Reference{}, tokens, E, k, true);
        check<T>(route_top_k_softmax, Cpu{1}, tokens, E, k, false);
        check<T>(route_top_k_softmax, Cpu{2}, tokens, E, k, true);
      }
    }
}

TEST_CASE("route: one thread and two give the same bits") {
  auto const logits = test::random_tensor<float>(Shape{Index{5000}, Index{8}}, 2, 3);
  auto const one = run<decltype(route_top_k_softmax), Cpu, float>(route_top_k_softmax, Cpu{1}, logits, 3);
  auto const two = run<decltype(route_top_k_softmax), Cpu, float>(route_top_k_softmax, Cpu{2}, logits, 3);
  for (Index i = 0; i < one.weights.size(); ++i) {
    CHECK(one.weights.data()[i] == two.weights.data()[i]);
    CHECK(one.experts.data()[i] == two.experts.data()[i]);
  }
}

TEST_CASE("route_top1_sigmoid: ties go to the lowest index, the weight is the sigmoid of the logit") {
  Tensor<double, 2> logits{Shape{Index{3}, Index{4}}};
  logits(1, 2) = logits(1, 3) = 0.5;
  logits(2, 0) = -2, logits(2, 1) = logits(2, 2) = -1, logits(2, 3) = -HUGE_VAL;
  auto const out = run<decltype(route_top1_sigmoid), Reference, double>(route_top1_sigmoid, Reference{}, logits, 1);
  CHECK(out.experts(0, 0) == 0);
  CHECK(out.weights(0, 0) == 0.5);
  CHECK(out.experts(1, 0) == 2);
  CHECK(out.experts(2, 0) == 1);
  CHECK(out.weights(2, 0) == sigmoid(-1.0));
}

TEST_CASE("route_top_k_softmax: slots descend, ties by index, and with k = E the weights are the whole softmax") {
  Tensor<double, 2> logits{Shape{Index{2}, Index{4}}};
  logits(0, 0) = 1, logits(0, 1) = 3, logits(0, 2) = 1, logits(0, 3) = 3;
  auto const out = run<decltype(route_top_k_softmax), Reference, double>(route_top_k_softmax, Reference{}, logits, 4, false);
  int const expected[]{1, 3, 0, 2};
  double sum = 0;
  for (Index s = 0; s < 4; ++s) {
    CHECK(out.experts(0, s) == expected[s]);
    CHECK(out.experts(1, s) == s);
    CHECK(out.weights(1, s) == 0.25);
    sum += out.weights(0, s);
  }
  CHECK(sum == doctest::Approx(1).epsilon(4 * scalar_traits<double>::unit_roundoff));
  CHECK(out.weights(0, 0) / out.weights(0, 2) == doctest::Approx(std::exp(2)).epsilon(8 * scalar_traits<double>::unit_roundoff));

  auto const two = run<decltype(route_top_k_softmax), Reference, double>(route_top_k_softmax, Reference{}, logits, 2);
  CHECK(two.weights(0, 0) == 0.5);
  CHECK(two.weights(0, 1) == 0.5);
  auto const raw = run<decltype(route_top_k_softmax), Reference, double>(route_top_k_softmax, Reference{}, logits, 2, false);
  CHECK(raw.weights(0, 0) == out.weights(0, 0));
}

TEST_CASE("route_top_k_softmax: a logit of -inf masks its expert, huge logits do not overflow") {
  Tensor<float, 2> logits{Shape{Index{1}, Index{3}}};
  logits(0, 0) = -HUGE_VALF, logits(0, 1) = 3e38f, logits(0, 2) = -HUGE_VALF;
  auto const out = run<decltype(route_top_k_softmax), Cpu, float>(route_top_k_softmax, Cpu{2}, logits, 3, false);
  CHECK(out.experts(0, 0) == 1);
  CHECK(out.weights(0, 0) == 1);
  CHECK(out.experts(0, 1) == 0);
  CHECK(out.weights(0, 1) == 0);
  CHECK(out.experts(0, 2) == 2);
}

TEST_CASE("route: strided logits and outputs give the same values") {
  auto const columns = test::random_tensor<float>(Shape{Index{6}, Index{40}}, 3);
  auto const logits = View<float const, 2>{columns}.transposed(0, 1);
  auto const dense = converted<float>(logits);
  auto const expected = run<decltype(route_top_k_softmax), Reference, float>(route_top_k_softmax, Reference{}, dense, 2);
  Tensor<int, 2> experts{Shape{Index{2}, Index{40}}};
  Tensor<float, 2> weights{Shape{Index{2}, Index{40}}};
  route_top_k_softmax(
      Cpu{2},
      RouteArgs<float>{.logits = logits, .experts = experts.view().transposed(0, 1), .weights = weights.view().transposed(0, 1)});
  for (Index i = 0; i < 40; ++i)
    for (Index s = 0; s < 2; ++s) {
      CHECK(experts(s, i) == expected.experts(i, s));
      CHECK(weights(s, i) == expected.weights(i, s));
    }
}

TEST_CASE("route: dual numbers carry the derivative of the weights") {
  using D = Dual<double>;
  auto const at = test::random_tensor<double>(Shape{Index{3}, Index{5}}, 4);
  auto const along = test::random_tensor<double>(Shape{Index{3}, Index{5}}, 5);
  Tensor<D, 2> logits{at.shape()};
  for (Index i = 0; i < at.size(); ++i) logits.data()[i] = D{at.data()[i], along.data()[i]};
  auto const moved = [&](double step) {
    auto x = at.clone();
    for (Index i = 0; i < x.size(); ++i) x.data()[i] += step * along.data()[i];
    return run<decltype(route_top_k_softmax), Reference, double>(route_top_k_softmax, Reference{}, x, 2);
  };
  double const h = 0x1p-17;
  auto const dual = run<decltype(route_top_k_softmax), Reference, D>(route_top_k_softmax, Reference{}, logits, 2);
  auto const up = moved(h), down = moved(-h);
  for (Index i = 0; i < dual.weights.size(); ++i)
    CHECK(dual.weights.data()[i].tangent == doctest::Approx((up.weights.data()[i] - down.weights.data()[i]) / (2 * h)).epsilon(h));

  // d sigmoid(x) = sigmoid(x) (1 - sigmoid(x)) dx
  auto const top1 = run<decltype(route_top1_sigmoid), Reference, D>(route_top1_sigmoid, Reference{}, logits, 1);
  for (Index i = 0; i < 3; ++i) {
    auto const w = top1.weights(i, 0);
    CHECK(w.tangent == doctest::Approx(w.value * (1 - w.value) * along(i, top1.experts(i, 0))));
  }
}

TEST_CASE("route: what no rule can answer is refused, with the values, and nothing is written") {
  Tensor<float, 2> logits{Shape{Index{2}, Index{3}}}, weights{Shape{Index{2}, Index{1}}}, many{Shape{Index{2}, Index{4}}};
  Tensor<int, 2> experts{Shape{Index{2}, Index{1}}}, slots{Shape{Index{2}, Index{4}}};
  experts(0, 0) = 7;
  logits(1, 2) = std::nanf("");
  auto const args = RouteArgs<float>{.logits = logits, .experts = experts, .weights = weights};
  CHECK_THROWS_WITH_AS(route_top1_sigmoid(Cpu{2}, args), "route_top1_sigmoid: the logit of token 1 for expert 2 is NaN",
                       value_error);
  CHECK_THROWS_WITH_AS(route_top_k_softmax(Reference{}, args), "route_top_k_softmax: the logit of token 1 for expert 2 is NaN",
                       value_error);
  logits(1, 2) = HUGE_VALF;
  CHECK_THROWS_WITH_AS(route_top_k_softmax(Cpu{2}, args), "route_top_k_softmax: the largest logit of token 1 is inf, not finite",
                       value_error);
  CHECK(experts(0, 0) == 7);
  CHECK_THROWS_WITH_AS(route_top_k_softmax(Reference{}, RouteArgs<float>{.logits = logits, .experts = slots, .weights = many}),
                       "route_top_k_softmax: experts has 4 slots for a token, outside 1 to the 3 experts of logits", value_error);
  CHECK_THROWS_WITH_AS(route_top1_sigmoid(Reference{}, RouteArgs<float>{.logits = logits,
                                                                        .experts = slots.view().slice(1, 0, 2),
                                                                        .weights = many.view().slice(1, 0, 2)}),
                       "route_top1_sigmoid: experts has 2 slots for a token, the rule fills 1", value_error);
  CHECK_THROWS_AS(route_top1_sigmoid(Reference{}, RouteArgs<float>{.logits = logits, .experts = experts, .weights = many}),
                  shape_error);
}
