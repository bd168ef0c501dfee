#pragma once
/// \file
/// What a router is: a rule from logits to experts and weights, one file each.

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/pass.hpp>

namespace blackmamba {

/// A router assigns every token `top_k` experts and their weights:
///
///   template <class Ctx, Scalar T>
///   static void route(Pass<Ctx, T> const&, Dims const&, Input<T, 2> logits,          // (tokens, E)
///                     Output<int, 2> experts, Output<accumulator_t<T>, 2> weights);  // (tokens, top_k)
///
/// `pass.mode` says whether the network learns; an expert of -1 drops the token's slot.
template <class R>
concept Router = requires(Pass<Reference, float> const& pass, Dims const& dims, View<float const, 2> logits, View<int, 2> experts,
                          View<float, 2> weights) {
  R::route(pass, dims, logits, experts, weights);
};

/// Stops the compilation with a sentence unless `R` is a router.
template <class R>
consteval bool require_router() {
  static_assert(Router<R>,
                "this router has no static route(pass, dims, logits, experts, weights) for logits of (tokens, n_experts)");
  return true;
}

}  // namespace blackmamba
