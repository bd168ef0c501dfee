#pragma once
/// \file
/// A dense MLP as a mixer: the published configuration's "1".

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/ops/activation/activation.hpp>
#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba {

/// fc2(unit(fc1(x))) with the unit of `E`. Sizes: d_model, d_ffn.
template <class E>
struct Mlp {
  static_assert(require_expert<E>());
  static constexpr char const* name = "MLP";

  template <class T>
  struct Params {
    View<T, 2> fc1{};    ///< (d_ffn or 2 d_ffn, d_model)
    View<T, 1> bias1{};  ///< with linear_bias
    View<T, 2> fc2{};    ///< (d_model, d_ffn)
    View<T, 1> bias2{};  ///< with linear_bias
  };

  /// Tokens do not see each other: nothing to carry.
  template <class T>
  struct State {};

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    Index const F1 = fc1_rows<E>(d);
    visit("linear_fc1.weight", p.fc1, Shape<2>{F1, d.d_model}, Init::linear, Decay::yes);
    if (d.linear_bias) visit("linear_fc1.bias", p.bias1, Shape<1>{F1}, Init::zeros, Decay::no);
    visit("linear_fc2.weight", p.fc2, Shape<2>{d.d_model, d.d_ffn}, Init::residual, Decay::yes);
    if (d.linear_bias) visit("linear_fc2.bias", p.bias2, Shape<1>{d.d_model}, Init::zeros, Decay::no);
  }

  static constexpr void state(auto&, Dims const&, Index, auto&) {}

  static constexpr Index flops_per_token(Dims const& d) { return 2 * (fc1_rows<E>(d) + d.d_ffn) * d.d_model; }

  /// x, y (B, L, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Output<T, 3> y, State<T> const*) {
    rows(pass, d, p, x.rows(), y.rows());
  }

  /// x, y (B, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y, State<T> const&) {
    rows(pass, d, p, x, y);
  }

 private:
  template <class Ctx, Scalar T>
  static void rows(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y) {
    Index const rows = x.extent(0), F = d.d_ffn;
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    auto const up = scratch.take<T>(Shape<2>{rows, fc1_rows<E>(d)});
    linear(pass.ctx, LinearArgs<T>{.x = x, .weight = p.fc1, .bias = p.bias1, .y = up});
    auto const hidden = up.slice(1, 0, F);
    if (E::gated(d))
      gated_unit(pass.ctx, GatedUnitArgs<T>{.kind = E::activation(d), .gate = hidden, .value = up.slice(1, F, F), .y = hidden});
    else
      activation(pass.ctx, ActivationArgs<T>{.kind = E::activation(d), .x = hidden, .y = hidden});
    linear(pass.ctx, LinearArgs<T>{.x = hidden, .weight = p.fc2, .bias = p.bias2, .y = y});
  }
};

}  // namespace blackmamba
