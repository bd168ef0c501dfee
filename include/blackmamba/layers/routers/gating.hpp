#pragma once
/// \file
/// What several routers do alike: weights of what they chose, memory in the scalar that is computed in, averages over steps.

#include <blackmamba/layers/routers/router.hpp>
#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/losses.hpp>
#include <blackmamba/ops/route/memory.hpp>
#include <blackmamba/ops/route/threshold.hpp>

namespace blackmamba::routing {

/// Whether the weights of a token are divided by their sum. A single weight is not: it would always be 1, and teach nothing.
constexpr bool normalises(Dims const& d) { return d.router.normalise && d.top_k > 1; }

/// Where a pass starts from: the router's memory, widened, or `otherwise` where it is zeros. Throws `shape_error` unless it has one
/// number for each expert.
template <class Ctx, Scalar T>
View<accumulator_t<T>, 1> remembered(Pass<Ctx, T> const& pass, View<T const, 1> memory, Dims const& d, char const* router,
                                     double otherwise = 0) {
  check_shape(router, "memory", memory, Shape<1>{d.n_experts}, "n_experts");
  auto const out = pass.ctx.scratch().template take<accumulator_t<T>>(memory.shape());
  route_memory(pass.ctx, RouteMemoryArgs<T>{.memory = memory, .otherwise = otherwise, .out = out});
  return out;
}

/// Where a pass of a training step starts from: what an earlier pass of the step left, or else what the last step did.
template <class Ctx, Scalar T>
View<accumulator_t<T>, 1> carried(Pass<Ctx, T> const& pass, RouterArgs<T> const& a, Dims const& d, char const* router) {
  check_shape(router, "memory", a.memory, Shape<1>{d.n_experts}, "n_experts");
  auto const out = pass.ctx.scratch().template take<accumulator_t<T>>(a.memory.shape());
  route_memory(pass.ctx, RouteMemoryArgs<T>{.memory = a.memory, .earlier = a.observed, .out = out});
  return out;
}

/// What a pass of a training step leaves: to ← factor · x, each expert's.
template <class Ctx, Scalar A>
void assign(Ctx const& ctx, View<A, 1> to, View<A, 1> x, double factor = 1) {
  route_blend(ctx, RouteBlendArgs<A>{.x = x, .factor = factor, .y = to});
}

/// After a step: memory is what the step's last pass left, if it saw a token.
template <Scalar A>
void keep_observed(RouterUpdate<A> const& u) {
  for (Index e = 0; u.tokens > 0 && e < u.memory.extent(0); ++e) u.memory(e) = u.observed(e);
}

/// During a step: observed = Σ over passes of tokens · value. After it: its mean over tokens enters an average over steps, which
/// the first step begins.
template <class Ctx, Scalar A>
void observe_mean(Ctx const& ctx, View<A, 1> observed, View<A, 1> value, Index tokens) {
  if (observed) route_blend(ctx, RouteBlendArgs<A>{.x = value, .factor = static_cast<double>(tokens), .add = true, .y = observed});
}
template <Scalar A>
void average_observed(Dims const& d, RouterUpdate<A> const& u) {
  if (u.tokens == 0) return;
  bool untouched = true;
  for (Index e = 0; e < u.memory.extent(0); ++e) untouched = untouched && u.memory(e) == A(0);
  A const stays = untouched ? A(0) : A(d.router.average), count(static_cast<double>(u.tokens));
  for (Index e = 0; e < u.memory.extent(0); ++e) u.memory(e) = stays * u.memory(e) + (A(1) - stays) * u.observed(e) / count;
}

/// The weights of a router whose choice is made, and their gradient. `rechoose(experts)` makes the choice again, for the sums that
/// normalised weights were divided by hold experts that were dropped since; it is called where a capacity may have dropped some.
template <class Ctx, Scalar T>
void gate(Pass<Ctx, T> const& pass, RouterArgs<T> const& a, Gate kind, bool normalise) {
  route_gate(pass.ctx, RouteGateArgs<T>{
                           .logits = a.logits, .experts = a.experts, .gate = kind, .normalise = normalise, .weights = a.weights});
}
template <class Ctx, Scalar T>
void gate_backward(Pass<Ctx, T> const& pass, RouterBackwardArgs<T> const& a, Gate kind, bool normalise, View<int const, 2> chosen) {
  route_gate_backward(pass.ctx, RouteGateBackwardArgs<T>{.logits = a.logits,
                                                         .experts = a.experts,
                                                         .chosen = chosen,
                                                         .gate = kind,
                                                         .normalise = normalise,
                                                         .d_weights = a.d_weights,
                                                         .d_logits = a.d_logits});
}
template <class Ctx, Scalar T>
void gate_backward(Pass<Ctx, T> const& pass, RouterBackwardArgs<T> const& a, Gate kind) {
  gate_backward(pass, a, kind, false, {});
}
template <class Ctx, Scalar T, class Rechoose>
void gate_backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a, Gate kind, Rechoose const& rechoose) {
  auto const scope = pass.ctx.scratch().scope();
  View<int, 2> chosen{};
  if (normalises(d) && d.router.capacity_factor > 0) rechoose(chosen = pass.ctx.scratch().template take<int>(a.experts.shape()));
  gate_backward(pass, a, kind, normalises(d), chosen);
}

/// balance · the load-balancing loss of a choice, over the tokens that `router.scope` says. `rechoose(experts)` makes the choice
/// again, for the loss counts what was chosen; it is called where a capacity may have dropped some of it.
template <class Ctx, Scalar T, class Rechoose>
void balance(Pass<Ctx, T> const& pass, Dims const& d, RouterLossArgs<T> const& a, Rechoose const& rechoose) {
  RouterOptions const& o = d.router;
  if (o.balance == 0) return;
  auto const scope = pass.ctx.scratch().scope();
  auto experts = a.experts;
  if (o.capacity_factor > 0) {
    auto const again = pass.ctx.scratch().template take<int>(experts.shape());
    rechoose(again);
    experts = again;
  }
  BalanceLossArgs<T> args{
      .logits = a.logits, .experts = experts, .coefficient = o.balance, .scale = a.scale, .loss = a.loss, .d_logits = a.d_logits};
  if (o.scope == BalanceScope::sequence) args.offsets = pass.offsets;
  if (o.scope == BalanceScope::global) args.counts = a.observed;
  balance_loss(pass.ctx, args);
}

/// Every score of a pass, in scratch.
template <class Ctx, Scalar T>
View<accumulator_t<T>, 2> scores(Pass<Ctx, T> const& pass, View<T const, 2> logits, Gate kind) {
  auto const out = pass.ctx.scratch().template take<accumulator_t<T>>(logits.shape());
  route_scores(pass.ctx, RouteScoresArgs<T>{.logits = logits, .gate = kind, .scores = out});
  return out;
}

}  // namespace blackmamba::routing
