#pragma once
/// \file
/// The Mamba-2 mixer: the same recurrence with one decay, step size and skip for a head of channels, and a norm behind the gate.
///
///   z, xBC, Δ = in_proj(input)                           d_inner, d_inner + 2 G N, H
///   x, B, C = silu(conv1d(xBC))
///   Δ_h = clamp(softplus(Δ_h + dt_bias_h)),  A_h = -exp(A_log_h)
///   h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t,  y_t = C_t·h_t + D x_t       with the values of its head for every channel
///   output = out_proj(rms_norm(y · silu(z)))
///
/// It runs on the same selective scan as Mamba, with head values given to every channel, so it is exact rather than chunked.
/// Source: Dao & Gu 2024, arXiv:2405.21060, section 7.

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/norm.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>
#include <blackmamba/ops/decay/backward.hpp>
#include <blackmamba/ops/expand_heads/backward.hpp>
#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

namespace blackmamba {

/// Mixer of a Mamba-2 block. Sizes: d_model, d_inner, d_state, d_conv, n_groups, head_dim (which divides d_inner).
struct Mamba2 {
  static constexpr char const* name = "Mamba-2";

  template <class T>
  struct Params {
    View<T, 2> in_proj{};        ///< (2 d_inner + 2 G N + H, d_model): z, x, B, C, Δ
    View<T, 1> in_proj_bias{};   ///< with linear_bias
    View<T, 2> conv{};           ///< (d_inner + 2 G N, d_conv)
    View<T, 1> conv_bias{};      ///< with conv_bias
    View<T, 1> dt_bias{};        ///< (H)
    View<T, 1> A_log{};          ///< (H)
    View<T, 1> D{};              ///< (H)
    RmsNorm::Params<T> norm{};   ///< (d_inner)
    View<T, 2> out_proj{};       ///< (d_model, d_inner)
    View<T, 1> out_proj_bias{};  ///< with linear_bias
  };

  template <class T>
  struct State {
    View<T, 3> conv{};                 ///< (B, d_conv - 1, d_inner + 2 G N)
    View<accumulator_t<T>, 3> scan{};  ///< (B, d_inner, N)
  };

  static constexpr Index heads(Dims const& d) { return d.head_dim ? d.inner() / d.head_dim : 1; }
  static constexpr Index conv_channels(Dims const& d) { return d.inner() + 2 * d.n_groups * d.d_state; }

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    Index const I = d.inner(), H = heads(d), X = conv_channels(d);
    visit("in_proj.weight", p.in_proj, Shape<2>{I + X + H, d.d_model}, Init::linear, Decay::yes);
    if (d.linear_bias) visit("in_proj.bias", p.in_proj_bias, Shape<1>{I + X + H}, Init::zeros, Decay::no);
    visit("conv1d.weight", p.conv, Shape<2>{X, d.d_conv}, Init::linear, Decay::yes);
    if (d.conv_bias) visit("conv1d.bias", p.conv_bias, Shape<1>{X}, Init::zeros, Decay::no);
    visit("dt_bias", p.dt_bias, Shape<1>{H}, Init::step_bias, Decay::no);
    visit("A_log", p.A_log, Shape<1>{H}, Init::s4d_log, Decay::no);
    visit("D", p.D, Shape<1>{H}, Init::ones, Decay::no);
    visit.enter("norm");
    RmsNorm::parameters(p.norm, I, visit);
    visit.leave();
    visit("out_proj.weight", p.out_proj, Shape<2>{d.d_model, I}, Init::residual, Decay::yes);
    if (d.linear_bias) visit("out_proj.bias", p.out_proj_bias, Shape<1>{d.d_model}, Init::zeros, Decay::no);
  }

  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) {
    visit(s.conv, Shape<3>{batch, d.d_conv - 1, conv_channels(d)});
    visit(s.scan, Shape<3>{batch, d.inner(), d.d_state});
  }

  static constexpr Index flops_per_token(Dims const& d) {
    Index const I = d.inner(), X = conv_channels(d);
    return 2 * (I + X + heads(d) + I) * d.d_model + 9 * I * d.d_state + 2 * X * d.d_conv;
  }

  /// Learnt values of a head, one a channel; A repeats over the states by a stride of 0.
  template <class T>
  struct PerChannel {
    View<T, 1> A_log{};             ///< (d_inner)
    View<accumulator_t<T>, 2> A{};  ///< (d_inner, N)
    View<T, 1> D{};                 ///< (d_inner)
  };

  /// What the backward pass needs beside the input.
  template <class T>
  struct Saved {
    View<T, 3> projected{};  ///< (B, L, 2 d_inner + 2 G N + H) in_proj(input)
    View<T, 3> xBC{};        ///< (B, L, d_inner + 2 G N)
    View<T, 3> delta{};      ///< (B, L, d_inner) after bias, softplus and clamp
    PerChannel<T> channel{};
    View<T, 3> gated{};   ///< (B, L, d_inner) what the norm reads
    View<T, 3> normed{};  ///< (B, L, d_inner) what out_proj reads
  };

  /// x, y (B, L, d_model). With a state, sequences go on from it and leave theirs in it. No aliasing.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Output<T, 3> y,
                      State<T> const* state, Saved<T>* saved = nullptr) {
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    bool const keeps = saved && pass.keep == Keep::activations;
    Saved<T> own;
    Saved<T>& s = keeps ? *saved : own;
    normed_of(pass, d, p, x, s, keeps ? *pass.tape : scratch, state);
    linear(pass.ctx, LinearArgs<T>{.x = s.normed.rows(), .weight = p.out_proj, .bias = p.out_proj_bias, .y = y.rows()});
  }

  /// d_x (B, L, d_model) from d_y, overwritten; the gradients of the parameters are added to g. x as in the forward pass, which had
  /// no state: sequences began at zero.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& saved, Input<T, 3> x, Input<T, 3> d_y,
                       Output<T, 3> d_x, Params<accumulator_t<T>> const& g) {
    using A = accumulator_t<T>;
    Index const I = d.inner(), N = d.d_state, G = d.n_groups, H = heads(d), X = conv_channels(d);
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    Saved<T> s = saved;
    if (pass.keep == Keep::inputs) normed_of(pass, d, p, x, s, scratch);

    auto const d_gated = scratch.take<T>(s.gated.shape());
    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = s.normed.rows(),
                                                    .weight = p.out_proj,
                                                    .d_y = d_y.rows(),
                                                    .d_x = d_gated.rows(),
                                                    .d_weight = g.out_proj,
                                                    .d_bias = g.out_proj_bias});
    rms_norm_backward(pass.ctx, RmsNormBackwardArgs<T>{.x = s.gated.rows(),
                                                       .weight = p.norm.weight,
                                                       .epsilon = d.norm_epsilon,
                                                       .d_y = d_gated.rows(),
                                                       .d_x = d_gated.rows(),
                                                       .d_weight = g.norm.weight});

    auto const d_projected = scratch.take<T>(s.projected.shape());
    auto const d_xBC = scratch.take<T>(s.xBC.shape());
    auto const d_delta = scratch.take<T>(s.delta.shape());
    auto const d_A = scratch.take_zeros<A>(Shape<2>{I, N});
    auto const d_D = scratch.take_zeros<A>(Shape<1>{I});
    selective_scan_backward(pass.ctx, SelectiveScanBackwardArgs<T>{.u = s.xBC.slice(2, 0, I),
                                                                   .delta = s.delta,
                                                                   .A = s.channel.A,
                                                                   .B = split_last(s.xBC.slice(2, I, G * N), G),
                                                                   .C = split_last(s.xBC.slice(2, I + G * N, G * N), G),
                                                                   .D = s.channel.D,
                                                                   .z = s.projected.slice(2, 0, I),
                                                                   .offsets = pass.offsets,
                                                                   .d_y = d_gated,
                                                                   .d_u = d_xBC.slice(2, 0, I),
                                                                   .d_delta = d_delta,
                                                                   .d_A = d_A,
                                                                   .d_B = split_last(d_xBC.slice(2, I, G * N), G),
                                                                   .d_C = split_last(d_xBC.slice(2, I + G * N, G * N), G),
                                                                   .d_D = d_D,
                                                                   .d_z = d_projected.slice(2, 0, I)});
    expand_heads_backward(pass.ctx, ExpandHeadsBackwardArgs<T>{.x = s.projected.slice(2, I + X, H).rows(),
                                                               .bias = p.dt_bias,
                                                               .softplus = true,
                                                               .low = d.dt_low,
                                                               .high = d.dt_high,
                                                               .d_y = d_delta.rows(),
                                                               .d_x = d_projected.slice(2, I + X, H).rows(),
                                                               .d_bias = g.dt_bias});
    auto const d_A_log = scratch.take_zeros<A>(Shape<2>{I, N});
    View<T const, 2> const A_log{s.channel.A_log.data(), Shape<2>{I, N}, Shape<2>{1, 0}};
    decay_backward(pass.ctx, DecayBackwardArgs<T>{.A_log = A_log, .d_A = d_A, .d_A_log = d_A_log});
    sum_over_heads(pass, d_A_log.reshaped(Shape<1>{I * N}), g.A_log);
    sum_over_heads(pass, d_D, g.D);

    causal_conv1d_backward(pass.ctx, CausalConv1dBackwardArgs<T>{.x = s.projected.slice(2, I, X),
                                                                 .weight = p.conv,
                                                                 .bias = p.conv_bias,
                                                                 .offsets = pass.offsets,
                                                                 .d_y = d_xBC,
                                                                 .d_x = d_projected.slice(2, I, X),
                                                                 .d_weight = g.conv,
                                                                 .d_bias = g.conv_bias});
    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = x.rows(),
                                                    .weight = p.in_proj,
                                                    .d_y = d_projected.rows(),
                                                    .d_x = d_x.rows(),
                                                    .d_weight = g.in_proj,
                                                    .d_bias = g.in_proj_bias});
  }

  /// One token of each sequence: x, y (B, d_model); the state moves on. No aliasing.
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y,
                   State<T> const& state) {
    Index const B = x.extent(0), I = d.inner(), N = d.d_state, G = d.n_groups, H = heads(d), X = conv_channels(d);
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    auto const projected = scratch.take<T>(Shape<2>{B, I + X + H});
    auto const xBC = scratch.take<T>(Shape<2>{B, X});
    auto const delta = scratch.take<T>(Shape<2>{B, I});
    auto const gated = scratch.take<T>(Shape<2>{B, I});
    linear(pass.ctx, LinearArgs<T>{.x = x, .weight = p.in_proj, .bias = p.in_proj_bias, .y = projected});
    causal_conv1d_step(pass.ctx,
                       CausalConv1dStepArgs<T>{
                           .x = projected.slice(1, I, X), .weight = p.conv, .bias = p.conv_bias, .state = state.conv, .y = xBC});
    PerChannel<T> const channel = per_channel(pass, d, p, scratch);
    expand_steps(pass, d, p, projected.slice(1, I + X, H), delta);
    selective_scan_step(pass.ctx, SelectiveScanStepArgs<T>{.u = xBC.slice(1, 0, I),
                                                           .delta = delta,
                                                           .A = channel.A,
                                                           .B = split_last(xBC.slice(1, I, G * N), G),
                                                           .C = split_last(xBC.slice(1, I + G * N, G * N), G),
                                                           .D = channel.D,
                                                           .z = projected.slice(1, 0, I),
                                                           .state = state.scan,
                                                           .y = gated});
    RmsNorm::apply(pass, d, p.norm, gated, {}, gated);
    linear(pass.ctx, LinearArgs<T>{.x = gated, .weight = p.out_proj, .bias = p.out_proj_bias, .y = y});
  }

 private:
  /// All of `s`, in memory of `arena`.
  template <class Ctx, Scalar T>
  static void normed_of(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Saved<T>& s, Arena& arena,
                        State<T> const* state = nullptr) {
    Index const B = x.extent(0), L = x.extent(1), I = d.inner(), N = d.d_state, G = d.n_groups, H = heads(d), X = conv_channels(d);
    s.projected = arena.take<T>(Shape<3>{B, L, I + X + H});
    linear(pass.ctx, LinearArgs<T>{.x = x.rows(), .weight = p.in_proj, .bias = p.in_proj_bias, .y = s.projected.rows()});

    s.xBC = arena.take<T>(Shape<3>{B, L, X});
    CausalConv1dArgs<T> conv{
        .x = s.projected.slice(2, I, X), .weight = p.conv, .bias = p.conv_bias, .offsets = pass.offsets, .y = s.xBC};
    if (state) conv.initial_state = conv.last_state = state->conv;
    causal_conv1d(pass.ctx, conv);

    s.channel = per_channel(pass, d, p, arena);
    s.delta = arena.take<T>(Shape<3>{B, L, I});
    expand_steps(pass, d, p, s.projected.slice(2, I + X, H).rows(), s.delta.rows());
    s.gated = arena.take<T>(Shape<3>{B, L, I});
    SelectiveScanArgs<T> scan{.u = s.xBC.slice(2, 0, I),
                              .delta = s.delta,
                              .A = s.channel.A,
                              .B = split_last(s.xBC.slice(2, I, G * N), G),
                              .C = split_last(s.xBC.slice(2, I + G * N, G * N), G),
                              .D = s.channel.D,
                              .z = s.projected.slice(2, 0, I),
                              .offsets = pass.offsets,
                              .y = s.gated};
    if (state) scan.initial_state = scan.last_state = state->scan;
    selective_scan(pass.ctx, scan);
    s.normed = arena.take<T>(Shape<3>{B, L, I});
    RmsNorm::apply(pass, d, p.norm, s.gated.rows(), {}, s.normed.rows());
  }

  template <class Ctx, Scalar T>
  static PerChannel<T> per_channel(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Arena& arena) {
    Index const I = d.inner(), H = heads(d);
    auto const A_log = arena.take<T>(Shape<1>{I});
    auto const D = arena.take<T>(Shape<1>{I});
    auto const A = arena.take<accumulator_t<T>>(Shape<2>{I, 1});
    expand_heads(pass.ctx, ExpandHeadsArgs<T>{.x = row(p.A_log, H), .y = row(A_log, I)});
    expand_heads(pass.ctx, ExpandHeadsArgs<T>{.x = row(p.D, H), .y = row(D, I)});
    decay(pass.ctx, DecayArgs<T>{.A_log = View<T, 2>{A_log.data(), Shape<2>{I, 1}}, .A = A});
    return {.A_log = A_log, .A = {A.data(), Shape<2>{I, d.d_state}, Shape<2>{1, 0}}, .D = D};
  }

  template <class T>
  static View<T, 2> row(View<T, 1> v, Index n) {
    return {v.data(), Shape<2>{1, n}};
  }

  /// Adds to each head's sum what lies in its equal part of `values`: the gradient of a value that `per_channel` gave to all of it.
  template <class Ctx, Scalar T, Scalar A>
  static void sum_over_heads(Pass<Ctx, T> const& pass, View<A, 1> values, View<A, 1> sums) {
    auto const unread = pass.ctx.scratch().template take_zeros<A>(Shape<1>{sums.extent(0)});
    expand_heads_backward(
        pass.ctx, ExpandHeadsBackwardArgs<A>{
                      .x = row(unread, sums.extent(0)), .bias = unread, .d_y = row(values, values.extent(0)), .d_bias = sums});
  }

  template <class Ctx, Scalar T>
  static void expand_steps(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y) {
    expand_heads(pass.ctx,
                 ExpandHeadsArgs<T>{.x = x, .bias = p.dt_bias, .softplus = true, .low = d.dt_low, .high = d.dt_high, .y = y});
  }
};

}  // namespace blackmamba
