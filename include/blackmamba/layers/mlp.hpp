#pragma once
/// \file
/// A dense MLP as a mixer: the published configuration's "1".

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/ops/linear/backward.hpp>

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

  /// What the backward pass needs beside the input.
  template <class T>
  struct Saved {
    View<T, 2> up{};      ///< (rows, fc1 rows) before the non-linearity
    View<T, 2> hidden{};  ///< (rows, d_ffn) after it
  };

  /// x, y (B, L, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Output<T, 3> y, State<T> const*,
                      Saved<T>* saved = nullptr) {
    rows(pass, d, p, x.rows(), y.rows(), saved);
  }

  /// x, y (B, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y, State<T> const&) {
    rows(pass, d, p, x, y);
  }

  /// d_x (B, L, d_model) from d_y, overwritten; the gradients of the parameters are added to g. x as in the forward pass.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& saved, Input<T, 3> x, Input<T, 3> d_y,
                       Output<T, 3> d_x, Params<accumulator_t<T>> const& g) {
    Index const rows = x.rows().extent(0), F = d.d_ffn;
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    Saved<T> s = saved;
    if (pass.keep == Keep::inputs) hidden_of(pass, d, p, x.rows(), s, scratch);
    auto const d_hidden = scratch.take<T>(Shape<2>{rows, F});
    auto const d_up = scratch.take<T>(s.up.shape());
    linear_backward(pass.ctx,
                    LinearBackwardArgs<T>{
                        .x = s.hidden, .weight = p.fc2, .d_y = d_y.rows(), .d_x = d_hidden, .d_weight = g.fc2, .d_bias = g.bias2});
    if (E::gated(d))
      gated_unit_backward(pass.ctx, GatedUnitBackwardArgs<T>{.kind = E::activation(d),
                                                             .gate = s.up.slice(1, 0, F),
                                                             .value = s.up.slice(1, F, F),
                                                             .d_y = d_hidden,
                                                             .d_gate = d_up.slice(1, 0, F),
                                                             .d_value = d_up.slice(1, F, F)});
    else
      activation_backward(pass.ctx, ActivationBackwardArgs<T>{.kind = E::activation(d), .x = s.up, .d_y = d_hidden, .d_x = d_up});
    linear_backward(pass.ctx,
                    LinearBackwardArgs<T>{
                        .x = x.rows(), .weight = p.fc1, .d_y = d_up, .d_x = d_x.rows(), .d_weight = g.fc1, .d_bias = g.bias1});
  }

 private:
  template <class Ctx, Scalar T>
  static void rows(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y,
                   Saved<T>* saved = nullptr) {
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    bool const keeps = saved && pass.keep == Keep::activations;
    Saved<T> own;
    Saved<T>& s = keeps ? *saved : own;
    hidden_of(pass, d, p, x, s, keeps ? *pass.tape : scratch);
    linear(pass.ctx, LinearArgs<T>{.x = s.hidden, .weight = p.fc2, .bias = p.bias2, .y = y});
  }

  /// Both of `s`, in memory of `arena`.
  template <class Ctx, Scalar T>
  static void hidden_of(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Saved<T>& s, Arena& arena) {
    Index const rows = x.extent(0), F = d.d_ffn;
    s.up = arena.take<T>(Shape<2>{rows, fc1_rows<E>(d)});
    s.hidden = arena.take<T>(Shape<2>{rows, F});
    linear(pass.ctx, LinearArgs<T>{.x = x, .weight = p.fc1, .bias = p.bias1, .y = s.up});
    if (E::gated(d))
      gated_unit(pass.ctx, GatedUnitArgs<T>{
                               .kind = E::activation(d), .gate = s.up.slice(1, 0, F), .value = s.up.slice(1, F, F), .y = s.hidden});
    else
      activation(pass.ctx, ActivationArgs<T>{.kind = E::activation(d), .x = s.up, .y = s.hidden});
  }
};

}  // namespace blackmamba
