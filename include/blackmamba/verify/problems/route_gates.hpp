#pragma once
/// \file
/// Problems for gates, for the gradients of the routing rules, and for the losses of routers.

#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/losses.hpp>
#include <blackmamba/verify/problems/routing_rules.hpp>

namespace blackmamba::verify {

/// Experts in a row from a different one for every token, some slots empty.
inline Tensor<int, 2> experts_in_turn(RoutingSize const& s) {
  Tensor<int, 2> out{Shape<2>{s.tokens, s.k}};
  for (Index i = 0; i < s.tokens; ++i)
    for (Index j = 0; j < s.k; ++j) out(i, j) = (i + j) % 5 == 4 ? -1 : static_cast<int>((i + j) % s.E);
  return out;
}

/// As they are left when two of seven assignments found their expert full.
inline Tensor<int, 2> without_some(Tensor<int, 2> experts) {
  for (Index i = 0; i < experts.size(); ++i)
    if (i % 7 == 1 || i % 7 == 3) experts.data()[i] = -1;
  return experts;
}

/// Options are gates; those from 4 on are normalised.
template <Scalar T>
struct RouteGateProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_gate";
  static constexpr auto operation = route_gate;
  static std::vector<Size> sizes() { return routing_sizes(8); }

  Size size;
  Tensor<T, 2> logits;
  Tensor<int, 2> experts;
  Tensor<A, 2> weights;

  template <class Stored>
  RouteGateProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E}, Normal{0, 2})},
        experts{experts_in_turn(s)},
        weights{unwritten<A>(Shape<2>{s.tokens, s.k})} {}

  auto args(auto& place) {
    return RouteGateArgs<T>{.logits = place.in(logits),
                            .experts = place.in(experts),
                            .gate = static_cast<Gate>(size.option % 4),
                            .normalise = size.option >= 4,
                            .weights = place.out(weights)};
  }
  auto outputs() const { return std::tuple{Output{"weights", weights, Cost{.terms = static_cast<double>(size.E), .scale = 1}}}; }
};

template <Scalar T>
struct RouteGateBackwardProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_gate_backward";
  static constexpr auto operation = route_gate_backward;
  static std::vector<Size> sizes() { return routing_sizes(8); }

  Size size;
  Tensor<T, 2> logits;
  Tensor<int, 2> chosen, experts;
  Tensor<A, 2> d_weights;
  Tensor<T, 2> d_logits;

  template <class Stored>
  RouteGateBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E}, Normal{0, 2})},
        chosen{experts_in_turn(s)},
        experts{without_some(experts_in_turn(s))},
        d_weights{in.template accumulator<A>(Shape<2>{s.tokens, s.k})},
        d_logits{unwritten<T>(Shape<2>{s.tokens, s.E})} {}

  /// With an odd number of experts those that were chosen are given whether or not the gate asks for them.
  auto args(auto& place) {
    bool const normalise = size.option >= 4;
    return RouteGateBackwardArgs<T>{.logits = place.in(logits),
                                    .experts = place.in(experts),
                                    .chosen = place.in(chosen, normalise || size.E % 2 == 1),
                                    .gate = static_cast<Gate>(size.option % 4),
                                    .normalise = normalise,
                                    .d_weights = place.in(d_weights),
                                    .d_logits = place.out(d_logits)};
  }
  auto outputs() const { return std::tuple{Output{"d_logits", d_logits, Cost{.terms = static_cast<double>(size.E), .scale = 1}}}; }
};

/// What the gradients of the rules share: experts as the rule of `k` best wrote them, some of them dropped since.
template <Scalar T>
struct RouteBackwardProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;

  Size size;
  Tensor<T, 2> logits;
  Tensor<int, 2> experts;
  Tensor<A, 2> d_weights;
  Tensor<T, 2> d_logits;

  template <class Stored>
  RouteBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E}, Normal{0, 2})},
        experts{Shape<2>{s.tokens, s.k}},
        d_weights{in.template accumulator<A>(Shape<2>{s.tokens, s.k})},
        d_logits{unwritten<T>(Shape<2>{s.tokens, s.E})} {
    Tensor<A, 2> weights{experts.shape()};
    route_top_k_softmax(Reference{}, RouteArgs<T>{.logits = logits, .experts = experts, .weights = weights});
    experts = without_some(std::move(experts));
  }

  /// Option 1: normalised.
  auto args(auto& place) {
    return RouteBackwardArgs<T>{.logits = place.in(logits),
                                .experts = place.in(experts),
                                .d_weights = place.in(d_weights),
                                .normalise = size.option == 1,
                                .d_logits = place.out(d_logits)};
  }
  auto outputs() const { return std::tuple{Output{"d_logits", d_logits, Cost{.terms = static_cast<double>(size.E), .scale = 1}}}; }
};

template <Scalar T>
struct RouteTopKSoftmaxBackwardProblem : RouteBackwardProblem<T> {
  static constexpr char const* name = "route_top_k_softmax_backward";
  static constexpr auto operation = route_top_k_softmax_backward;
  static std::vector<RoutingSize> sizes() { return routing_sizes(2); }
  using RouteBackwardProblem<T>::RouteBackwardProblem;
};

template <Scalar T>
struct RouteSigmoidBackwardProblem : RouteBackwardProblem<T> {
  static std::vector<RoutingSize> sizes() { return {{0, 3}, {1, 1}, {1, 8}, {7, 2}, {333, 16}, {1025, 6}}; }
  using RouteBackwardProblem<T>::RouteBackwardProblem;
};

template <Scalar T>
struct RouteTop1SigmoidBackwardProblem : RouteSigmoidBackwardProblem<T> {
  static constexpr char const* name = "route_top1_sigmoid_backward";
  static constexpr auto operation = route_top1_sigmoid_backward;
  using RouteSigmoidBackwardProblem<T>::RouteSigmoidBackwardProblem;
};

template <Scalar T>
struct RoutePlanSigmoidBackwardProblem : RouteSigmoidBackwardProblem<T> {
  static constexpr char const* name = "route_plan_sigmoid_backward";
  static constexpr auto operation = route_plan_sigmoid_backward;
  using RouteSigmoidBackwardProblem<T>::RouteSigmoidBackwardProblem;
};

/// What the losses share: a gradient that there is, and a loss.
template <Scalar T>
struct RouterLossProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr double coefficient = 0.75, scale = 0.5;

  Size size;
  Tensor<T, 2> logits, d_logits;
  Tensor<A, 1> loss;

  template <class Stored>
  RouterLossProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E}, Normal{0, 2})},
        d_logits{in.template storage<T>(Shape<2>{s.tokens, s.E})},
        loss{in.template accumulator<A>(Shape<1>{1})} {}

  /// `largest` is that of the loss; its terms have one sign, but what there was may have the other.
  auto outputs_of(double largest) const {
    return std::tuple{Output{"loss", loss, Cost{.terms = static_cast<double>(size.tokens + size.E), .scale = largest}},
                      Output{"d_logits", d_logits, Cost{.terms = static_cast<double>(size.tokens + size.E), .scale = 1}}};
  }
};

/// Option 1: sequences, an empty one among them; 2: counts of the whole step.
template <Scalar T>
struct BalanceLossProblem : RouterLossProblem<T> {
  using A = accumulator_t<T>;
  static constexpr char const* name = "balance_loss";
  static constexpr auto operation = balance_loss;
  static std::vector<RoutingSize> sizes() { return routing_sizes(4); }

  Tensor<int, 2> experts;
  Tensor<Index, 1> offsets;
  Tensor<A, 1> counts;

  template <class Stored>
  BalanceLossProblem(RoutingSize const& s, Inputs<Stored>& in)
      : RouterLossProblem<T>{s, in},
        experts{experts_in_turn(s)},
        offsets{in.offsets(5, s.tokens)},
        counts{in.template accumulator<A>(Shape<1>{s.E}, Uniform{1, 100})} {}

  auto args(auto& place) {
    return BalanceLossArgs<T>{.logits = place.in(this->logits),
                              .experts = place.in(experts),
                              .offsets = place.in(offsets, (this->size.option & 1) != 0),
                              .counts = place.in(counts, (this->size.option & 2) != 0),
                              .coefficient = this->coefficient,
                              .scale = this->scale,
                              .loss = place.out(this->loss),
                              .d_logits = place.out(this->d_logits)};
  }
  auto outputs() const { return this->outputs_of(2); }
};

template <Scalar T>
struct RouterZLossProblem : RouterLossProblem<T> {
  static constexpr char const* name = "router_z_loss";
  static constexpr auto operation = router_z_loss;
  static std::vector<RoutingSize> sizes() { return routing_sizes(1); }
  using RouterLossProblem<T>::RouterLossProblem;

  auto args(auto& place) {
    return RouterZLossArgs<T>{.logits = place.in(this->logits),
                              .coefficient = this->coefficient,
                              .scale = this->scale,
                              .loss = place.out(this->loss),
                              .d_logits = place.out(this->d_logits)};
  }
  auto outputs() const { return this->outputs_of(25); }
};

/// Option 1: a coefficient of which the logarithm is given.
template <Scalar T>
struct SparsityLossProblem : RouterLossProblem<T> {
  static constexpr char const* name = "sparsity_loss";
  static constexpr auto operation = sparsity_loss;
  static std::vector<RoutingSize> sizes() { return routing_sizes(2); }

  Tensor<T, 1> log_coefficient;

  template <class Stored>
  SparsityLossProblem(RoutingSize const& s, Inputs<Stored>& in)
      : RouterLossProblem<T>{s, in}, log_coefficient{in.template storage<T>(Shape<1>{1})} {}

  auto args(auto& place) {
    return SparsityLossArgs<T>{.logits = place.in(this->logits),
                               .k = this->size.k,
                               .coefficient = this->coefficient,
                               .log_coefficient = place.in(log_coefficient, this->size.option == 1),
                               .scale = this->scale,
                               .loss = place.out(this->loss),
                               .d_logits = place.out(this->d_logits)};
  }

  /// f is E / k where all logits of a token are positive, and the sum of them E.
  auto outputs() const {
    auto const E = static_cast<double>(this->size.E);
    return this->outputs_of(E * E / static_cast<double>(this->size.k));
  }
};

}  // namespace blackmamba::verify
