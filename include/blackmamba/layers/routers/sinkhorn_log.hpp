#pragma once
/// \file
/// Balance by optimal transport while the network learns, on logarithms and from where the last step ended.

#include <blackmamba/layers/routers/plan.hpp>

namespace blackmamba {

/// As `Sinkhorn`, with the plan of the logits at sharpness 2 solved on logarithms, for any finite logits, to a marginal error of
/// 1e-3, which an argmax does not see, in at most router.iterations. Memory holds the experts' potentials of the last step, and the
/// first iteration starts from them. Reads iterations.
/// Source: Cuturi 2013, arXiv:1306.0895; warm starts Thornton & Cuturi 2022, arXiv:2206.07630.
struct SinkhornLog {
  static constexpr char const* name = "sinkhorn-log";
  static constexpr char const* summary = "a balanced plan in training, solved on logarithms from the last step's potentials";

  static constexpr Index memory(Dims const& d) { return d.n_experts; }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    if (pass.mode == Mode::inference) return routing::route_without_plan(pass, d, a);
    auto const scope = pass.ctx.scratch().scope();
    auto const g = routing::carried(pass, a, d, name);
    routing::route_by_plan(pass, d, a, [&](View<accumulator_t<T>, 2> plan, View<SinkhornReport, 1> report) {
      sinkhorn_log(pass.ctx, SinkhornLogArgs<T>{.logits = a.logits,
                                                .plan = plan,
                                                .tolerance = 1e-3,
                                                .max_iterations = d.router.iterations,
                                                .potentials = g,
                                                .report = report});
    });
    if (a.observed) routing::assign(pass.ctx, a.observed, g);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, routing::plan_gate(d));
  }

  template <Scalar A>
  static void update(Dims const&, RouterUpdate<A> const& u) {
    routing::keep_observed(u);
  }
};

}  // namespace blackmamba
