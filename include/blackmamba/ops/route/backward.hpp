#pragma once
/// \file
/// Gradients of the routing rules with respect to the logits. What they share stands here; each rule is a file beside this one.
///
/// The choice of experts is piecewise constant and a plan only chooses, so neither carries a gradient: all of it goes through the
/// weights. A rule's gradient is exact wherever its forward pass is differentiable.

#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// Arguments of the gradient of every routing rule.
template <Scalar T>
struct RouteBackwardArgs {
  View<T const, 2> logits{};                    ///< (tokens, E) as the rule read them
  View<int const, 2> experts{};                 ///< (tokens, k) as the rule wrote them; -1 in a slot that was dropped since
  View<accumulator_t<T> const, 2> d_weights{};  ///< (tokens, k) gradient of the loss by the weights; not read in dropped slots
  bool normalise = true;                        ///< as in the forward pass
  View<T, 2> d_logits{};                        ///< (tokens, E) out, overwritten
};

namespace detail {

template <Scalar T>
void check_route_backward(char const* op, RouteBackwardArgs<T> const& a) {
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1), k = a.experts.extent(1);
  check_value(k >= 1 && k <= E, op, "experts has ", k, " slots for a token, outside 1 to the ", E, " experts of logits");
  check_shape(op, "experts", a.experts, Shape<2>{tokens, k}, "logits");
  check_shape(op, "d_weights", a.d_weights, Shape<2>{tokens, k}, "experts");
  check_shape(op, "d_logits", a.d_logits, a.logits.shape(), "logits");
}

}  // namespace detail
}  // namespace blackmamba

#include <blackmamba/ops/route/backward_gate.hpp>
#include <blackmamba/ops/route/backward_sigmoid.hpp>
#include <blackmamba/ops/route/backward_top_k_softmax.hpp>
