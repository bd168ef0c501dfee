#pragma once
/// \file
/// Experts by what a token is, or by chance: what a learnt router is worth is measured against these.

#include <blackmamba/layers/routers/gating.hpp>
#include <blackmamba/ops/route/draw.hpp>

namespace blackmamba {

namespace routing {

/// Fixed for ever: a checkpoint's tokens keep their experts.
inline constexpr Random hashes{0x626C61636B6D616Du};

template <class Ctx, Scalar T>
void draw(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a, Random random, View<Token const, 1> keys) {
  route_draw(pass.ctx, RouteDrawArgs{.random = random.split(static_cast<std::uint64_t>(pass.layer)),
                                     .keys = keys,
                                     .n_experts = d.n_experts,
                                     .experts = a.experts});
  gate(pass, a, Gate::constant, true);
}

template <class Ctx, Scalar T>
void draw_by_token(char const* router, Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
  check_value(static_cast<bool>(pass.tokens) || a.logits.extent(0) == 0, router, "the pass does not say the rows' tokens");
  draw(pass, d, a, hashes, pass.tokens);
}

}  // namespace routing

/// top_k experts that depend on the token's number and the layer alone, each with weight 1 / top_k. Nothing is learnt, and frequent
/// tokens make frequent experts. Reads no option. Source: Roller et al. 2021, arXiv:2106.04426.
struct HashRouter {
  static constexpr char const* name = "hash";
  static constexpr char const* summary = "experts fixed by the token's number and the layer; nothing is learnt";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    routing::draw_by_token(name, pass, d, a);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, Gate::constant);
  }
};

}  // namespace blackmamba
