#pragma once
/// \file
/// How big a network is. What it *is* stands in its type; its sizes stand here, as a literal that may be `constexpr` or come
/// from a file.

#include <blackmamba/core/error.hpp>
#include <blackmamba/core/shape.hpp>
#include <blackmamba/layers/routers/options.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba {

/// Sizes of a network, in the field's names. Zero where a default says how it follows from the others.
struct Dims {
  Index vocab = 0;      ///< rows of the embedding
  Index d_model = 0;    ///< width of the residual stream
  Index d_state = 16;   ///< N, states per channel of the scan
  Index d_conv = 4;     ///< K, taps of the causal convolution
  Index d_inner = 0;    ///< channels of a Mamba block; 0: 2 · d_model
  Index dt_rank = 0;    ///< rank of the step-size projection; 0: ceil(d_model / 16)
  Index d_ffn = 0;      ///< hidden width of an MLP or of one expert
  Index n_experts = 0;  ///< experts of a mixture layer
  Index top_k = 1;      ///< experts a token goes to
  Index shared = 0;     ///< experts of a mixture layer, beside the routed ones, that every token goes to
  Index depth = 1;      ///< how often a `Repeat` stands
  Index n_groups = 1;   ///< groups that share B and C
  Index head_dim = 0;   ///< channels that share one decay (Mamba-2); 0: not used
  double norm_epsilon = 1e-5;
  double dt_low = 0, dt_high = 0;                ///< the step size is clamped to [dt_low, dt_high] when dt_low < dt_high (Mamba-2)
  bool linear_bias = false;                      ///< biases in the linear maps of mixers and MLPs
  bool conv_bias = true;                         ///< bias of the convolution
  bool output_bias = false;                      ///< bias of the output projection
  bool gated = true;                             ///< MLPs of a `ConfiguredUnit` are gated
  Activation activation = Activation::gelu_erf;  ///< and this is their non-linearity
  bool tied = true;                              ///< the output projection is the embedding
  RouterOptions router{};                        ///< what the routers of mixtures are told

  constexpr Index inner() const { return d_inner ? d_inner : 2 * d_model; }
  constexpr Index rank() const { return dt_rank ? dt_rank : ceil_div(d_model, 16); }
  friend constexpr bool operator==(Dims const&, Dims const&) = default;
};

/// Throws `value_error` naming the first size that no network can have.
constexpr void check_dims(Dims const& d) {
  auto const positive = [](Index value, char const* name) {
    if (value < 1) throw value_error(concat("dims: ", name, " is ", value, ", not at least 1"));
  };
  positive(d.vocab, "vocab"), positive(d.d_model, "d_model"), positive(d.d_state, "d_state"), positive(d.d_conv, "d_conv");
  positive(d.inner(), "d_inner"), positive(d.rank(), "dt_rank"), positive(d.n_groups, "n_groups");
  if (d.inner() % d.n_groups != 0)
    throw value_error(concat("dims: d_inner is ", d.inner(), ", not a multiple of n_groups ", d.n_groups));
  if (d.head_dim < 0 || (d.head_dim > 0 && d.inner() % d.head_dim != 0))
    throw value_error(concat("dims: d_inner is ", d.inner(), ", not a multiple of head_dim ", d.head_dim));
  if (d.n_experts < 0 || d.shared < 0 || d.d_ffn < 0 || d.depth < 0)
    throw value_error(concat("dims: n_experts ", d.n_experts, ", shared ", d.shared, ", d_ffn ", d.d_ffn, " and depth ", d.depth,
                             " must not be negative"));
  check_router_options(d.router, d.n_experts);
  if (d.n_experts > 0 && (d.top_k < 1 || d.top_k > d.n_experts))
    throw value_error(concat("dims: top_k is ", d.top_k, ", outside 1 to n_experts ", d.n_experts));
}

}  // namespace blackmamba
