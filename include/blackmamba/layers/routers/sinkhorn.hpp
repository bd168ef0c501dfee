#pragma once
/// \file
/// Balance by optimal transport while the network learns, as the published model did it.

#include <blackmamba/layers/routers/plan.hpp>

namespace blackmamba {

/// In training the published BlackMamba's plan: exp(2 · logits) scaled to equal marginals from d1 = 1 / (E · column sum), until d1
/// moves by 1e-4 on average or router.iterations are done; the experts are those that get most of a token, and the gate is the
/// sigmoid of the logit, or with top_k > 1, which the published model has not, its probability. The plan has no gradient. At
/// inference the largest logits choose. Reads iterations.
///
/// The published test is on an absolute change, which many tokens make small whatever the marginals are: iterations are few, and
/// `RouterReport` has the marginal error that is left. Logits beyond ±43 in float leave the range of the exponential, which is a
/// `value_error`; `SinkhornLog` has neither limit.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 4, and its published code; Clark et al. 2022, arXiv:2202.01169.
struct Sinkhorn {
  static constexpr char const* name = "sinkhorn";
  static constexpr char const* summary =
      "a balanced plan in training, from BlackMamba's initialisation; largest logit at inference";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    if (pass.mode == Mode::inference) return routing::route_without_plan(pass, d, a);
    routing::route_by_plan(pass, d, a, [&](View<accumulator_t<T>, 2> plan, View<SinkhornReport, 1> report) {
      sinkhorn(pass.ctx,
               SinkhornArgs<T>{.logits = a.logits, .plan = plan, .max_iterations = d.router.iterations, .report = report});
    });
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, routing::plan_gate(d));
  }
};

}  // namespace blackmamba
