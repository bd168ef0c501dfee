#pragma once
/// \file
/// Experts by chance.

#include <blackmamba/layers/routers/hash.hpp>

namespace blackmamba {

/// In training top_k experts drawn anew for every row from the seed of the step and the layer, each with weight 1 / top_k: an even
/// load, and experts that learn the same. At inference `HashRouter`, so that steps equal a forward pass. Reads no option.
/// Source: Zuo et al. 2021, arXiv:2110.04260.
struct RandomRouter {
  static constexpr char const* name = "random";
  static constexpr char const* summary = "experts drawn anew in training, fixed by the token at inference; nothing is learnt";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    if (pass.mode == Mode::inference) return HashRouter::route(pass, d, a);
    routing::draw(pass, d, a, Random{pass.seed}, {});
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    HashRouter::backward(pass, d, a);
  }
};

}  // namespace blackmamba
