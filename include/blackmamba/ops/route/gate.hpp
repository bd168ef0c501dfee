#pragma once
/// \file
/// What the logits of experts that were chosen, however they were, become as weights; and the scores that choices are made by.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/activation/functions.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// From a logit x to a score: 1; 1 / (1 + e^-x); its share of Σ_j e^x_j over all experts; max(x, 0).
enum class Gate { constant, sigmoid, softmax, relu };

/// Arguments of `route_scores`.
template <Scalar T>
struct RouteScoresArgs {
  View<T const, 2> logits{};  ///< (tokens, E)
  Gate gate = Gate::sigmoid;
  View<accumulator_t<T>, 2> scores{};  ///< (tokens, E) out
};

/// Arguments of `route_gate`.
template <Scalar T>
struct RouteGateArgs {
  View<T const, 2> logits{};     ///< (tokens, E)
  View<int const, 2> experts{};  ///< (tokens, slots) the expert of each slot; -1: none
  Gate gate = Gate::sigmoid;
  bool normalise = false;               ///< whether the weights of a token are divided by their sum; for sigmoid and softmax
  View<accumulator_t<T>, 2> weights{};  ///< (tokens, slots) out; 0 in a slot without an expert
};

namespace detail {

/// The sums of exponentials that a softmax divides by need a largest term.
template <Scalar T>
void check_largest_finite(char const* op, View<T const, 2> logits) {
  for (Index i = 0; i < logits.extent(0); ++i) {
    if (logits.extent(1) == 0) continue;
    auto top = widen(logits(i, 0));
    for (Index j = 1; j < logits.extent(1); ++j)
      if (auto const x = widen(logits(i, j)); x > top) top = x;
    check_value(isfinite(top), op, "the largest logit of token ", i, " is ", static_cast<double>(top), ", not finite");
  }
}

/// One token's gate: its weights are exp(ℓ_e - top) / sum where they are shares of something, and the logit's own function else.
template <Scalar T>
struct TokenGate {
  using A = accumulator_t<T>;
  View<T const, 1> logits;
  View<int const, 1> experts;
  Gate gate;
  bool normalise;
  A top{0}, sum{0};

  /// A sum of sigmoids is taken over their logarithms, as a softmax: no set of logits leaves nothing to divide by.
  A log_score(Index e) const {
    A const x = widen(logits(e));
    return gate == Gate::sigmoid ? -softplus(-x) : x;
  }
  bool shares() const { return gate == Gate::softmax || (gate == Gate::sigmoid && normalise); }
  bool of_all() const { return gate == Gate::softmax && !normalise; }

  template <class Body>
  void for_each_term(Body const& body) const {
    if (of_all())
      for (Index e = 0; e < logits.extent(0); ++e) body(e);
    else
      for (Index s = 0; s < experts.extent(0); ++s)
        if (experts(s) >= 0) body(Index{experts(s)});
  }

  void prepare() {
    if (!shares()) return;
    bool first = true;
    for_each_term([&](Index e) {
      if (A const l = log_score(e); first || l > top) top = l, first = false;
    });
    for_each_term([&](Index e) { sum += exp(log_score(e) - top); });
  }

  A share(Index e) const { return exp(log_score(e) - top) / sum; }

  A weight(Index e) const {
    if (shares()) return share(e);
    A const x = widen(logits(e));
    if (gate == Gate::sigmoid) return sigmoid(x);
    if (gate == Gate::relu) return x > A(0) ? x : A(0);
    return A(1);
  }
};

template <Scalar T>
void check_gate_logits(char const* op, View<T const, 2> logits, Gate gate, bool normalise) {
  check_no_nan(op, logits);
  if (gate == Gate::softmax || (gate == Gate::sigmoid && normalise)) check_largest_finite(op, logits);
}

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
void route_scores_on(Ctx const& ctx, RouteScoresArgs<T> const& a) {
  Index const E = a.logits.extent(1);
  detail::for_each_token(ctx, a.logits.extent(0), E, [&](Index i) {
    detail::TokenGate<T> gate{a.logits[i], {}, a.gate, false};
    gate.prepare();
    for (Index e = 0; e < E; ++e) a.scores(i, e) = gate.weight(e);
  });
}

template <std::derived_from<Reference> Ctx, Scalar T>
void route_gate_on(Ctx const& ctx, RouteGateArgs<T> const& a) {
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), [&](Index i) {
    detail::TokenGate<T> gate{a.logits[i], a.experts[i], a.gate, a.normalise};
    gate.prepare();
    for (Index s = 0; s < a.experts.extent(1); ++s)
      a.weights(i, s) = a.experts(i, s) >= 0 ? gate.weight(a.experts(i, s)) : accumulator_t<T>(0);
  });
}

namespace detail {

struct route_scores_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteScoresArgs<T> const& a) const {
    check_shape("route_scores", "scores", a.scores, a.logits.shape(), "logits");
    check_gate_logits("route_scores", a.logits, a.gate, false);
    ProfileRange const range{"route_scores"};
    route_scores_on(ctx, a);
  }
};

struct route_gate_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteGateArgs<T> const& a) const {
    check_shape("route_gate", "experts", a.experts, Shape<2>{a.logits.extent(0), a.experts.extent(1)}, "logits");
    check_shape("route_gate", "weights", a.weights, a.experts.shape(), "experts");
    check_experts("route_gate", a.experts, a.logits.extent(1));
    check_gate_logits("route_gate", a.logits, a.gate, a.normalise);
    ProfileRange const range{"route_gate"};
    route_gate_on(ctx, a);
  }
};

}  // namespace detail

/// The score of every expert for every token, in the scalar that choices are made in:
///
///   scores_ie = gate(x_ie)
///
/// Shapes: logits, scores (tokens, E), any strides. Read in `T`, computed and written in accumulator_t<T>. Nothing may alias. Does
/// not synchronise. Throws `shape_error` on extents that disagree, and `value_error` on a NaN (naming token and expert) and, for
/// softmax, on a row whose largest logit is infinite; nothing is written then.
inline constexpr detail::route_scores_fn route_scores{};

/// The weights of experts that were chosen:
///
///   w_s = gate(x_{e_s}) ,   with `normalise` divided by Σ_s gate(x_{e_s}) over the slots that hold an expert
///
/// Shapes: logits (tokens, E); experts, weights (tokens, slots); any strides. Read in `T`, computed and written in
/// accumulator_t<T>; normalised weights do not underflow together. Nothing may alias. Does not synchronise. Throws `shape_error` on
/// extents that disagree, and `value_error` on an expert outside -1 to E - 1, on a NaN (naming token and expert) and, where weights
/// are shares of a sum, on a row whose largest logit is infinite; nothing is written then.
/// Sources: softmax Shazeer et al. 2017, arXiv:1701.06538; sigmoid, normalised, DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2;
/// ReLU Wang et al. 2024, arXiv:2412.14711.
inline constexpr detail::route_gate_fn route_gate{};

}  // namespace blackmamba
