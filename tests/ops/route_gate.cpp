#include <algorithm>

#include <blackmamba/ops/route/backward.hpp>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

constexpr Gate gates[]{Gate::constant, Gate::sigmoid, Gate::softmax, Gate::relu};

template <class T>
struct Problem {
  Tensor<T, 2> logits;
  Tensor<int, 2> chosen, experts;  // as chosen; with what was dropped since
  Tensor<accumulator_t<T>, 2> d_weights;
  Gate gate;
  bool normalise;
};

/// Experts in a stride of 3 from a different one for every token, some slots empty from the beginning, some dropped.
template <class T>
Problem<T> problem(Index tokens, Index E, Index slots, Gate gate, bool normalise) {
  Problem<T> p{test::random_tensor<T>(Shape{tokens, E}, 1, 2),
               Tensor<int, 2>{Shape{tokens, slots}},
               {},
               test::random_tensor<accumulator_t<T>>(Shape{tokens, slots}, 2),
               gate,
               normalise};
  for (Index i = 0; i < tokens; ++i)
    for (Index s = 0; s < slots; ++s) p.chosen(i, s) = (i + s) % 5 == 4 ? -1 : static_cast<int>((i + s) % E);
  p.experts = p.chosen.clone();
  for (Index i = 0; i < p.experts.size(); i += 4) p.experts.data()[i] = -1;
  return p;
}

template <class T, class Ctx>
Tensor<accumulator_t<T>, 2> forward(Ctx const& ctx, Problem<T> const& p) {
  Tensor<accumulator_t<T>, 2> out{p.chosen.shape()};
  route_gate(ctx,
             RouteGateArgs<T>{.logits = p.logits, .experts = p.chosen, .gate = p.gate, .normalise = p.normalise, .weights = out});
  return out;
}

template <class T, class Ctx>
Tensor<T, 2> backward(Ctx const& ctx, Problem<T> const& p) {
  Tensor<T, 2> out{p.logits.shape()};
  for (T& x : out) x = static_cast<T>(accumulator_t<T>(77));
  route_gate_backward(ctx, RouteGateBackwardArgs<T>{.logits = p.logits,
                                                    .experts = p.experts,
                                                    .chosen = p.chosen,
                                                    .gate = p.gate,
                                                    .normalise = p.normalise,
                                                    .d_weights = p.d_weights,
                                                    .d_logits = out});
  return out;
}

template <class A>
bool same(A const& a, A const& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

}  // namespace

TEST_CASE_TEMPLATE("route_gate: every scalar and shape agrees with the double reference, with the same bits on every context", T,
                   float, double, half, bf16) {
  for (Gate gate : gates)
    for (bool normalise : {false, true})
      for (Index tokens : {0, 1, 13, 3001})
        for (Index E : {1, 4, 9}) {
          auto const p = problem<T>(tokens, E, std::min(E, Index{3}), gate, normalise);
          Problem<double> const exact{
              converted<double>(p.logits), p.chosen.clone(), p.experts.clone(), converted<double>(p.d_weights), gate, normalise};
          auto const cost = verify::Cost{.terms = static_cast<double>(E), .scale = 1};
          auto const weights = forward<T>(Cpu{2}, p);
          CHECK_CLOSE(verify::compare(weights.view(), forward<double>(Reference{}, exact).view(), cost));
          CHECK(same(weights, forward<T>(Reference{}, p)));
          CHECK(same(weights, forward<T>(Cpu{1}, p)));
          auto const gradient = backward<T>(Cpu{2}, p);
          CHECK_CLOSE(verify::compare(gradient.view(), backward<double>(Reference{}, exact).view(), cost));
          auto const plain = converted<double>(backward<T>(Reference{}, p)), fast = converted<double>(gradient);
          CHECK(same(plain, fast));
        }
}

TEST_CASE("route_gate_backward: the gradient is that of dual numbers, empty and dropped slots included") {
  using D = Dual<double>;
  for (Gate gate : gates)
    for (bool normalise : {false, true}) {
      auto const p = problem<double>(14, 7, 3, gate, normalise);
      auto const got = backward<double>(Reference{}, p);
      auto const loss = [&](Tensor<D, 2> const& logits) {
        auto const weights = forward<D>(
            Reference{}, {logits.clone(), p.chosen.clone(), p.experts.clone(), converted<D>(p.d_weights), gate, normalise});
        D sum{0};
        for (Index i = 0; i < weights.size(); ++i)
          if (p.experts.data()[i] >= 0) sum += D{p.d_weights.data()[i]} * weights.data()[i];
        return sum;
      };
      test::check_gradients(loss, test::Gradient{"logits", p.logits, got});
    }
}

TEST_CASE("route_scores: each score is what the gate would weigh that expert with") {
  auto const logits = test::random_tensor<float>(Shape<2>{9, 4}, 3, 2);
  Tensor<int, 2> all{logits.shape()};
  for (Index i = 0; i < 9; ++i)
    for (Index e = 0; e < 4; ++e) all(i, e) = static_cast<int>(e);
  for (Gate gate : gates) {
    Tensor<float, 2> scores{logits.shape()}, weights{logits.shape()};
    route_scores(Cpu{2}, RouteScoresArgs<float>{.logits = logits, .gate = gate, .scores = scores});
    route_gate(Reference{}, RouteGateArgs<float>{.logits = logits, .experts = all, .gate = gate, .weights = weights});
    CHECK(same(scores, weights));
  }
}

TEST_CASE("route_gate: normalised sigmoids of logits that all underflow still sum to one") {
  Tensor<float, 2> logits{Shape<2>{1, 3}}, weights{Shape<2>{1, 2}};
  Tensor<int, 2> experts{Shape<2>{1, 2}};
  logits(0, 0) = -200, logits(0, 1) = 3, logits(0, 2) = -201;
  experts(0, 1) = 2;
  route_gate(Cpu{1}, RouteGateArgs<float>{.logits = logits, .experts = experts, .normalise = true, .weights = weights});
  CHECK(weights(0, 0) + weights(0, 1) == 1);
  CHECK(weights(0, 0) == doctest::Approx(1 / (1 + std::exp(-1.0))).epsilon(16 * scalar_traits<float>::unit_roundoff));
}

TEST_CASE("route_gate: what no gate can answer is refused, with the values, and nothing is written") {
  Tensor<float, 2> logits{Shape<2>{2, 3}}, weights{Shape<2>{2, 1}};
  Tensor<int, 2> experts{Shape<2>{2, 1}};
  for (float& w : weights) w = 7;
  auto const args = RouteGateArgs<float>{.logits = logits, .experts = experts, .gate = Gate::softmax, .weights = weights};
  experts(1, 0) = 3;
  CHECK_THROWS_WITH_AS(route_gate(Cpu{2}, args), "route_gate: the expert of token 1, slot 0 is 3, outside -1 to 2", value_error);
  experts(1, 0) = 0, logits(1, 2) = HUGE_VALF;
  CHECK_THROWS_WITH_AS(route_gate(Cpu{2}, args), "route_gate: the largest logit of token 1 is inf, not finite", value_error);
  logits(1, 2) = std::nanf("");
  CHECK_THROWS_WITH_AS(route_gate(Reference{}, args), "route_gate: the logit of token 1 for expert 2 is NaN", value_error);
  for (float w : weights) CHECK(w == 7);
}
