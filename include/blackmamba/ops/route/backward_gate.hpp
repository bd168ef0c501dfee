#pragma once
/// \file
/// The gradient of a gate's weights by the logits.

#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/gate.hpp>

namespace blackmamba {

/// Arguments of `route_gate_backward`.
template <Scalar T>
struct RouteGateBackwardArgs {
  View<T const, 2> logits{};     ///< (tokens, E)
  View<int const, 2> experts{};  ///< (tokens, slots); -1 where there was none, and where one was dropped since
  View<int const, 2> chosen{};   ///< optional (tokens, slots): the experts before any was dropped; absent: none was
  Gate gate = Gate::sigmoid;
  bool normalise = false;
  View<accumulator_t<T> const, 2> d_weights{};  ///< (tokens, slots); not read where `experts` holds -1
  View<T, 2> d_logits{};                        ///< (tokens, E) out, overwritten
};

namespace detail {

template <Scalar T>
struct GateBackwardRule {
  using A = accumulator_t<T>;
  RouteGateBackwardArgs<T> a;
  View<int const, 2> chosen;  // experts, where none was dropped

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const E = a.logits.extent(1), slots = a.experts.extent(1);
    TokenGate<T> gate{a.logits[i], chosen[i], a.gate, a.normalise};
    gate.prepare();
    A mean{0};  // of d_weights under the weights
    if (gate.shares())
      for (Index s = 0; s < slots; ++s)
        if (int const e = a.experts(i, s); e >= 0) mean += gate.share(e) * a.d_weights(i, s);
    for (Index e = 0; e < E; ++e) a.d_logits(i, e) = static_cast<T>(gate.of_all() ? -(gate.share(e) * mean) : A(0));

    for (Index s = 0; s < slots; ++s) {
      int const e = chosen(i, s);
      bool const kept = a.experts(i, s) >= 0;
      // A dropped expert has no gradient of its own, yet its score was part of the sum that normalised the others.
      if (e < 0 || (!kept && !a.normalise)) continue;
      A const g = kept ? a.d_weights(i, s) : A(0), x = widen(a.logits(i, e));
      A slope{0};
      // σ(-x) for 1 - σ(x), which would cancel where the gate is nearly open.
      if (gate.shares())
        slope = gate.share(e) * (g - mean) * (a.gate == Gate::sigmoid ? gate_sigmoid(-x) : A(1));
      else if (a.gate == Gate::sigmoid)
        slope = g * gate_sigmoid(x) * gate_sigmoid(-x);
      else if (a.gate == Gate::relu && x > A(0))
        slope = g;
      a.d_logits(i, e) = static_cast<T>(slope);
    }
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_row(a.d_logits, i, static_cast<T>(A(0))); }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
void route_gate_backward_on(Ctx const& ctx, RouteGateBackwardArgs<T> const& a) {
  constexpr char const* op = "route_gate_backward";
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  detail::check_experts(op, a.experts, E);
  if (a.chosen) detail::check_experts(op, a.chosen, E);
  detail::check_gate_logits(op, a.logits, a.gate, a.normalise);
  detail::for_each_token(ctx, tokens, E, detail::GateBackwardRule<T>{a, a.chosen ? a.chosen : a.experts});
}

namespace detail {

struct route_gate_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteGateBackwardArgs<T> const& a) const {
    constexpr char const* op = "route_gate_backward";
    check_shape(op, "experts", a.experts, Shape<2>{a.logits.extent(0), a.experts.extent(1)}, "logits");
    check_shape(op, "d_weights", a.d_weights, a.experts.shape(), "experts");
    check_shape(op, "d_logits", a.d_logits, a.logits.shape(), "logits");
    if (a.chosen) check_shape(op, "chosen", a.chosen, a.experts.shape(), "experts");
    ProfileRange const range{op};
    route_gate_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradient of `route_gate`. With g_e = d_weights_s where e_s = e and the slot is kept, else 0, and the weights w as there:
///
///   softmax:                 d_logits_e = w_e (g_e - Σ_j w_j g_j) over all experts, or over the chosen ones with `normalise`
///   sigmoid, normalised:     d_logits_e = w_e (g_e - Σ_j w_j g_j) σ(-x_e) over the chosen ones
///   sigmoid:                 d_logits_e = g_e σ(x_e) σ(-x_e)
///   relu:                    d_logits_e = g_e [x_e > 0]
///   constant:                0
///
/// Shapes: logits, d_logits (tokens, E); experts, chosen, d_weights (tokens, slots); any strides. Read in `T`, computed in
/// accumulator_t<T>, rounded once; d_logits is overwritten. An expert that was dropped after the gate counted it moves the weights
/// of the others when they are normalised, which needs `chosen`. Nothing may alias. Does not synchronise. Throws `shape_error` on
/// extents that disagree, and `value_error` where `route_gate` does; nothing is written then.
inline constexpr detail::route_gate_backward_fn route_gate_backward{};

}  // namespace blackmamba
