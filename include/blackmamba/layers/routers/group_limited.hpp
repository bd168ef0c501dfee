#pragma once
/// \file
/// The usual mixture, each token held to few groups of experts.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// The top_k most probable experts out of the token's groups_kept best groups; a group is worth the sum of the probabilities of its
/// best max(1, top_k / groups_kept). Weights and loss as in `Switch`. Reads groups, groups_kept, normalise, balance and scope
/// (`global` counts as `batch`).
///
/// Sources: DeepSeek-AI 2024, arXiv:2405.04434, section 2.2.2, where the best expert of a group counts alone; the sum
/// arXiv:2412.19437, section 2.1.2. The latter's sigmoid scores with a bias are `LossFreeBias` with groups.
struct GroupLimited {
  static constexpr char const* name = "group";
  static constexpr char const* summary = "the k most probable experts of the best groups of experts, with a balancing loss";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    choose(pass, d, a.logits, a.experts);
    routing::gate(pass, a, Gate::softmax, routing::normalises(d));
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, d, a, Gate::softmax, [&](View<int, 2> experts) { choose(pass, d, a.logits, experts); });
  }

  template <class Ctx, Scalar T>
  static void loss(Pass<Ctx, T> const& pass, Dims const& d, RouterLossArgs<T> const& a) {
    routing::balance(pass, d, a, [&](View<int, 2> experts) { choose(pass, d, a.logits, experts); });
  }

 private:
  template <class Ctx, Scalar T>
  static void choose(Pass<Ctx, T> const& pass, Dims const& d, View<T const, 2> logits, View<int, 2> experts) {
    auto const scope = pass.ctx.scratch().scope();
    route_choose(pass.ctx, RouteChooseArgs<accumulator_t<T>>{.scores = routing::scores(pass, logits, Gate::softmax),
                                                             .groups = d.router.groups,
                                                             .groups_kept = d.router.groups_kept,
                                                             .experts = experts});
  }
};

}  // namespace blackmamba
