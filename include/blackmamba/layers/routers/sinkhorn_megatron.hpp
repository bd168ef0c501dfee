#pragma once
/// \file
/// Balance by optimal transport while the network learns, as Megatron does it.

#include <blackmamba/layers/routers/plan.hpp>

namespace blackmamba {

/// As `Sinkhorn`, with Megatron's plan: exp(logits), not of twice them, scaled to equal marginals from d1 = 1, until d1 moves by
/// 1e-4 on average or router.iterations are done, where the published code goes on. The gate is the sigmoid of the logit, with
/// top_k > 1 its probability. Reads iterations. Source: Megatron-LM's published code; Clark et al. 2022, arXiv:2202.01169.
struct SinkhornMegatron {
  static constexpr char const* name = "sinkhorn-megatron";
  static constexpr char const* summary = "a balanced plan in training as in Megatron: exp(logits), started at ones";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    if (pass.mode == Mode::inference) return routing::route_without_plan(pass, d, a);
    routing::route_by_plan(pass, d, a, [&](View<accumulator_t<T>, 2> plan, View<SinkhornReport, 1> report) {
      sinkhorn(pass.ctx, SinkhornArgs<T>{.logits = a.logits,
                                         .plan = plan,
                                         .max_iterations = d.router.iterations,
                                         .sharpness = 1,
                                         .start = SinkhornStart::ones,
                                         .report = report});
    });
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, routing::plan_gate(d));
  }
};

}  // namespace blackmamba
