#pragma once
/// \file
/// A routed mixture of experts as a mixer: the published configuration's digit above 1.
///
///   logits = router(x);  (e_1…e_k, w_1…w_k) = Router(logits);  y = Σ_s w_s · expert_{e_s}(x)
///
/// Tokens are sorted by expert, so each expert is one pair of products, and come back by position: no atomics, same bits always.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 3; Fedus et al. 2021, arXiv:2101.03961.

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/routers/router.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/ops/dispatch/dispatch.hpp>
#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>
#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba {

/// Mixture of n_experts experts `E`, top_k a token, chosen by the router `R`. Sizes: d_model, d_ffn, n_experts, top_k.
template <class R, class E>
struct MoE {
  static_assert(require_router<R>() && require_expert<E>());
  static constexpr char const* name = "MoE";

  template <class T>
  struct Params {
    View<T, 2> router{};       ///< (n_experts, d_model)
    View<T, 1> router_bias{};  ///< (n_experts), always: the published router has one even where other maps have none
    View<T, 3> fc1{};          ///< (n_experts, d_ffn or 2 d_ffn, d_model)
    View<T, 2> bias1{};        ///< with linear_bias
    View<T, 3> fc2{};          ///< (n_experts, d_model, d_ffn)
    View<T, 2> bias2{};        ///< with linear_bias
  };

  /// Tokens do not see each other: nothing to carry.
  template <class T>
  struct State {};

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    Index const X = d.n_experts, F1 = fc1_rows<E>(d);
    visit("router.weight", p.router, Shape<2>{X, d.d_model}, Init::linear, Decay::yes);
    visit("router.bias", p.router_bias, Shape<1>{X}, Init::zeros, Decay::no);
    auto const experts = [&](char const* name, auto& view, auto shape, Init init, Decay decays) {
      visit.experts("local_experts", name, view, shape, d.top_k, init, decays);
    };
    experts("linear_fc1.weight", p.fc1, Shape<3>{X, F1, d.d_model}, Init::linear, Decay::yes);
    if (d.linear_bias) experts("linear_fc1.bias", p.bias1, Shape<2>{X, F1}, Init::zeros, Decay::no);
    experts("linear_fc2.weight", p.fc2, Shape<3>{X, d.d_model, d.d_ffn}, Init::residual, Decay::yes);
    if (d.linear_bias) experts("linear_fc2.bias", p.bias2, Shape<2>{X, d.d_model}, Init::zeros, Decay::no);
  }

  static constexpr void state(auto&, Dims const&, Index, auto&) {}

  static constexpr Index flops_per_token(Dims const& d) {
    return 2 * (d.n_experts + d.top_k * (fc1_rows<E>(d) + d.d_ffn)) * d.d_model;
  }

  /// x, y (B, L, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Output<T, 3> y, State<T> const*) {
    tokens(pass, d, p, x.rows(), y.rows());
  }

  /// x, y (B, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y, State<T> const&) {
    tokens(pass, d, p, x, y);
  }

 private:
  template <class Ctx, Scalar T>
  static void tokens(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y) {
    Index const tokens = x.extent(0), k = d.top_k, X = d.n_experts;
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    auto const logits = scratch.take<T>(Shape<2>{tokens, X});
    auto const experts = scratch.take<int>(Shape<2>{tokens, k});
    auto const weights = scratch.take<accumulator_t<T>>(Shape<2>{tokens, k});
    linear(pass.ctx, LinearArgs<T>{.x = x, .weight = p.router, .bias = p.router_bias, .y = logits});
    pass.show("router_logits", logits);
    R::route(pass, d, RouterArgs<T>{.logits = logits, .experts = experts, .weights = weights});

    auto const offsets = scratch.take<Index>(Shape<1>{X + 1});
    auto const order = scratch.take<Index>(Shape<1>{tokens * k});
    auto const places = scratch.take<Index>(Shape<2>{tokens, k});
    dispatch(pass.ctx, DispatchArgs{.experts = experts, .offsets = offsets, .order = order, .places = places});

    auto const sorted = scratch.take<T>(Shape<2>{tokens * k, d.d_model});
    auto const outputs = scratch.take<T>(Shape<2>{tokens * k, d.d_model});
    gather_tokens(pass.ctx, GatherArgs<T>{.x = x, .order = order, .slots = k, .y = sorted});
    expert_mlp(pass.ctx, ExpertMlpArgs<T>{.x = sorted,
                                          .offsets = offsets,
                                          .fc1 = p.fc1,
                                          .bias1 = p.bias1,
                                          .fc2 = p.fc2,
                                          .bias2 = p.bias2,
                                          .activation = E::activation(d),
                                          .gated = E::gated(d),
                                          .y = outputs});
    combine(pass.ctx, CombineArgs<T>{.x = outputs, .places = places, .weights = weights, .y = y});
  }
};

}  // namespace blackmamba
