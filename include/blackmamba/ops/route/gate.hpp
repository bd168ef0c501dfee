#pragma once
/// \file
/// What the logits of experts that were chosen, however they were, become as weights; and the scores that choices are made by.

#include <blackmamba/ops/route/functions.hpp>
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
  bool normalise = false;               ///< whether the weights of a token are divided by their sum; not for relu
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

/// row(e) = value(e) for all e, four values at a time: none of them waits for a store that might be where it reads.
template <class Value, class T>
BLACKMAMBA_HOST_DEVICE void for_each_four(Index E, Value const& value, View<T, 1> const& row) {
  Index e = 0;
  for (; e + 4 <= E; e += 4) {
    T const x[4]{value(e), value(e + 1), value(e + 2), value(e + 3)};
    for (int u = 0; u < 4; ++u) row(e + u) = x[u];
  }
  for (; e < E; ++e) row(e) = value(e);
}

/// Whether a gate's weights are shares of a sum of exponentials, and whether a gate looks at logits at all.
BLACKMAMBA_HOST_DEVICE constexpr bool gate_shares(Gate gate, bool normalise) {
  return gate == Gate::softmax || (gate == Gate::sigmoid && normalise);
}
BLACKMAMBA_HOST_DEVICE constexpr bool gate_reads(Gate gate) { return gate != Gate::constant; }

/// One token's gate: its weights are exp(ℓ_e - top) / sum where they are shares of something, and the logit's own function else.
/// With `Exact` as `gate_exp` has it.
template <Scalar T, bool Exact = false>
struct TokenGate {
  using A = accumulator_t<T>;
  View<T const, 1> logits;
  View<int const, 1> experts;
  Gate gate;
  bool normalise;
  A top{0}, sum{0};

  /// A sum of sigmoids is taken over their logarithms, as a softmax: no set of logits leaves nothing to divide by.
  BLACKMAMBA_HOST_DEVICE A log_score(Index e) const {
    A const x = widen(logits(e));
    return gate == Gate::sigmoid ? gate_log_sigmoid(x) : x;
  }
  BLACKMAMBA_HOST_DEVICE bool shares() const { return gate_shares(gate, normalise); }
  BLACKMAMBA_HOST_DEVICE bool of_all() const { return gate == Gate::softmax && !normalise; }

  template <class Body>
  BLACKMAMBA_HOST_DEVICE void for_each_term(Body const& body) const {
    if (of_all())
      for (Index e = 0; e < logits.extent(0); ++e) body(e);
    else
      for (Index s = 0; s < experts.extent(0); ++s)
        if (experts(s) >= 0) body(Index{experts(s)});
  }

  BLACKMAMBA_HOST_DEVICE void prepare() {
    if (gate == Gate::constant && normalise) for_each_term([&](Index) { sum += A(1); });
    if (!shares()) return;
    bool first = true;
    for_each_term([&](Index e) {
      if (A const l = log_score(e); first || l > top) top = l, first = false;
    });
    for_each_term([&](Index e) { sum += gate_exp<Exact>(log_score(e) - top); });
  }

  BLACKMAMBA_HOST_DEVICE A share(Index e) const { return gate_exp<Exact>(log_score(e) - top) / sum; }

  BLACKMAMBA_HOST_DEVICE A weight(Index e) const {
    if (shares()) return share(e);
    if (gate == Gate::constant) return normalise ? A(1) / sum : A(1);
    A const x = widen(logits(e));
    return gate == Gate::sigmoid ? gate_sigmoid<Exact>(x) : x > A(0) ? x : A(0);
  }
};

template <Scalar T>
void check_gate_logits(char const* op, View<T const, 2> logits, Gate gate, bool normalise) {
  if (gate_reads(gate)) check_no_nan(op, logits);
  if (gate_shares(gate, normalise)) check_largest_finite(op, logits);
}

template <Scalar T, bool Exact = true>
struct ScoresRule {
  using A = accumulator_t<T>;
  RouteScoresArgs<T> a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const E = a.logits.extent(1);
    TokenGate<T, Exact> gate{a.logits[i], {}, a.gate, false};
    if (a.gate != Gate::softmax)
      return for_each_four(
          E, [&](Index e) { return gate.weight(e); }, a.scores[i]);
    gate.top = E > 0 ? widen(a.logits(i, largest_of_row(a.logits, i))) : A(0);
    for_each_four(
        E, [&](Index e) { return gate_exp<Exact>(widen(a.logits(i, e)) - gate.top); }, a.scores[i]);
    for (Index e = 0; e < E; ++e) gate.sum += a.scores(i, e);
    for (Index e = 0; e < E; ++e) a.scores(i, e) /= gate.sum;
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_row(a.scores, i, accumulator_t<T>(0)); }
};

template <Scalar T>
struct GateRule {
  RouteGateArgs<T> a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    TokenGate<T> gate{a.logits[i], a.experts[i], a.gate, a.normalise};
    gate.prepare();
    for (Index s = 0; s < a.experts.extent(1); ++s)
      a.weights(i, s) = a.experts(i, s) >= 0 ? gate.weight(a.experts(i, s)) : accumulator_t<T>(0);
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_row(a.weights, i, accumulator_t<T>(0)); }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
void route_scores_on(Ctx const& ctx, RouteScoresArgs<T> const& a) {
  detail::check_gate_logits("route_scores", a.logits, a.gate, false);
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), detail::ScoresRule<T>{a});
}

template <std::derived_from<Reference> Ctx, Scalar T>
void route_gate_on(Ctx const& ctx, RouteGateArgs<T> const& a) {
  detail::check_experts("route_gate", a.experts, a.logits.extent(1));
  detail::check_gate_logits("route_gate", a.logits, a.gate, a.normalise);
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), detail::GateRule<T>{a});
}

namespace detail {

struct route_scores_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteScoresArgs<T> const& a) const {
    check_shape("route_scores", "scores", a.scores, a.logits.shape(), "logits");
    ProfileRange const range{"route_scores"};
    route_scores_on(ctx, a);
  }
};

struct route_gate_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteGateArgs<T> const& a) const {
    check_shape("route_gate", "experts", a.experts, Shape<2>{a.logits.extent(0), a.experts.extent(1)}, "logits");
    check_shape("route_gate", "weights", a.weights, a.experts.shape(), "experts");
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
/// `Gate::constant` does not look at the logits, `Gate::relu` does not normalise.
///
/// Shapes: logits (tokens, E); experts, weights (tokens, slots); any strides. Read in `T`, computed and written in
/// accumulator_t<T>; normalised weights do not underflow together. Nothing may alias. Does not synchronise. Throws `shape_error` on
/// extents that disagree, and `value_error` on an expert outside -1 to E - 1, on a NaN (naming token and expert) and, where weights
/// are shares of a sum, on a row whose largest logit is infinite; nothing is written then.
/// Sources: softmax Shazeer et al. 2017, arXiv:1701.06538; sigmoid, normalised, DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2;
/// ReLU Wang et al. 2024, arXiv:2412.14711.
inline constexpr detail::route_gate_fn route_gate{};

}  // namespace blackmamba
