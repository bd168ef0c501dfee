#pragma once
/// \file
/// Every expert, a little.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// All experts, weighted by softmax(logits): one slot for each, differentiable throughout, and E times the work of one expert.
/// top_k has nothing to do. The same rule at inference. Reads no option.
///
/// This is the dense mixture, not Soft MoE (Puigcerver et al. 2023, arXiv:2308.00951): there an expert reads weighted means over
/// the tokens of a sequence, so what a token gets depends on later ones, and neither a causal model nor decoding in steps can have
/// it. Source: Jacobs et al. 1991, "Adaptive mixtures of local experts".
struct SoftMixture {
  static constexpr char const* name = "soft";
  static constexpr char const* summary = "every expert, weighted by its probability: dense";

  static constexpr Index slots(Dims const& d) { return d.n_experts; }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const&, RouterArgs<T> const& a) {
    route_all(pass.ctx, RouteAllArgs{.experts = a.experts});
    routing::gate(pass, a, Gate::softmax, false);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, Gate::softmax);
  }
};

}  // namespace blackmamba
