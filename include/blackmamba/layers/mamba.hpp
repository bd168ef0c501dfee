#pragma once
/// \file
/// The Mamba block's mixer: a selective state space with its projections.
///
///   x, z = in_proj(input)                                 (B, L, d_inner) each
///   u = silu(conv1d(x))
///   δ, B, C = x_proj(u)                                   dt_rank, N, N
///   Δ = softplus(dt_proj(δ))
///   h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t,  y_t = C_t·h_t + D u_t,  A = -exp(A_log)
///   output = out_proj(y · silu(z))
///
/// Source: Gu & Dao 2023, arXiv:2312.00752, figure 3 and algorithm 2.

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/ops/add/add.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>
#include <blackmamba/ops/decay/backward.hpp>
#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/ops/projected_scan_step/projected_scan_step.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>

namespace blackmamba {

/// Mixer of a Mamba block. Sizes: d_model, d_inner, d_state, d_conv, dt_rank, n_groups.
struct Mamba {
  static constexpr char const* name = "Mamba";

  template <class T>
  struct Params {
    View<T, 2> in_proj{};        ///< (2 d_inner, d_model): x, then z
    View<T, 1> in_proj_bias{};   ///< (2 d_inner), with linear_bias
    View<T, 2> conv{};           ///< (d_inner, d_conv)
    View<T, 1> conv_bias{};      ///< (d_inner), with conv_bias
    View<T, 2> x_proj{};         ///< (dt_rank + 2 G N, d_inner): δ, B, C
    View<T, 2> dt_proj{};        ///< (d_inner, dt_rank)
    View<T, 1> dt_bias{};        ///< (d_inner)
    View<T, 2> A_log{};          ///< (d_inner, N)
    View<T, 1> D{};              ///< (d_inner)
    View<T, 2> out_proj{};       ///< (d_model, d_inner)
    View<T, 1> out_proj_bias{};  ///< (d_model), with linear_bias
  };

  /// What one decoding step carries to the next, for each sequence.
  template <class T>
  struct State {
    View<T, 3> conv{};                 ///< (B, d_conv - 1, d_inner): the last inputs of the convolution, oldest first
    View<accumulator_t<T>, 3> scan{};  ///< (B, d_inner, N)
  };

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    Index const I = d.inner(), R = d.rank(), N = d.d_state, G = d.n_groups;
    visit("in_proj.weight", p.in_proj, Shape<2>{2 * I, d.d_model}, Init::linear, Decay::yes);
    if (d.linear_bias) visit("in_proj.bias", p.in_proj_bias, Shape<1>{2 * I}, Init::zeros, Decay::no);
    visit("conv1d.weight", p.conv, Shape<2>{I, d.d_conv}, Init::linear, Decay::yes);
    if (d.conv_bias) visit("conv1d.bias", p.conv_bias, Shape<1>{I}, Init::zeros, Decay::no);
    visit("x_proj.weight", p.x_proj, Shape<2>{R + 2 * G * N, I}, Init::linear, Decay::yes);
    visit("dt_proj.weight", p.dt_proj, Shape<2>{I, R}, Init::step_weight, Decay::yes);
    visit("dt_proj.bias", p.dt_bias, Shape<1>{I}, Init::step_bias, Decay::no);
    visit("A_log", p.A_log, Shape<2>{I, N}, Init::s4d_log, Decay::no);
    visit("D", p.D, Shape<1>{I}, Init::ones, Decay::no);
    visit("out_proj.weight", p.out_proj, Shape<2>{d.d_model, I}, Init::residual, Decay::yes);
    if (d.linear_bias) visit("out_proj.bias", p.out_proj_bias, Shape<1>{d.d_model}, Init::zeros, Decay::no);
  }

  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) {
    visit(s.conv, Shape<3>{batch, d.d_conv - 1, d.inner()});
    visit(s.scan, Shape<3>{batch, d.inner(), d.d_state});
  }

  /// Floating-point operations a token: 2 for each weight of a product, 9 for each state of the scan, 2 for each tap.
  static constexpr Index flops_per_token(Dims const& d) {
    Index const I = d.inner(), R = d.rank(), N = d.d_state;
    Index const weights = 2 * I * d.d_model + (R + 2 * d.n_groups * N) * I + I * R + I * d.d_model;
    return 2 * weights + 9 * I * N + 2 * I * d.d_conv;
  }

  /// What the backward pass needs beside the input.
  template <class T>
  struct Saved {
    View<T, 3> xz{};                   ///< (B, L, 2 d_inner) in_proj(input)
    View<T, 3> u{};                    ///< (B, L, d_inner)
    View<T, 3> dbc{};                  ///< (B, L, dt_rank + 2 G N) x_proj(u)
    View<T, 3> delta{};                ///< (B, L, d_inner) before bias and softplus
    View<T, 3> gated{};                ///< (B, L, d_inner) what out_proj reads
    View<accumulator_t<T>, 2> A{};     ///< (d_inner, N)
    View<accumulator_t<T>, 4> kept{};  ///< (B, scan_chunks(L), N, d_inner) states of the scan
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
    gated_of(pass, d, p, x, s, keeps ? *pass.tape : scratch, state, keeps);
    linear(pass.ctx, LinearArgs<T>{.x = s.gated.rows(), .weight = p.out_proj, .bias = p.out_proj_bias, .y = y.rows()});
  }

  /// d_x (B, L, d_model) from d_y, overwritten; the gradients of the parameters are added to g. x as in the forward pass, which had
  /// no state: sequences began at zero.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& saved, Input<T, 3> x, Input<T, 3> d_y,
                       Output<T, 3> d_x, Params<accumulator_t<T>> const& g) {
    Index const B = x.extent(0), L = x.extent(1), I = d.inner(), R = d.rank(), N = d.d_state, G = d.n_groups;
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    Saved<T> s = saved;
    if (pass.keep == Keep::inputs) gated_of(pass, d, p, x, s, scratch, static_cast<State<T> const*>(nullptr), true);

    auto const d_gated = scratch.take<T>(Shape<3>{B, L, I});
    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = s.gated.rows(),
                                                    .weight = p.out_proj,
                                                    .d_y = d_y.rows(),
                                                    .d_x = d_gated.rows(),
                                                    .d_weight = g.out_proj,
                                                    .d_bias = g.out_proj_bias});

    auto const d_xz = scratch.take<T>(Shape<3>{B, L, 2 * I});
    auto const d_u = scratch.take<T>(Shape<3>{B, L, I});
    auto const d_delta = scratch.take<T>(Shape<3>{B, L, I});
    auto const d_dbc = scratch.take<T>(s.dbc.shape());
    auto const d_A = scratch.take_zeros<accumulator_t<T>>(Shape<2>{I, N});
    selective_scan_backward(pass.ctx, SelectiveScanBackwardArgs<T>{.u = s.u,
                                                                   .delta = s.delta,
                                                                   .A = s.A,
                                                                   .B = split_last(s.dbc.slice(2, R, G * N), G),
                                                                   .C = split_last(s.dbc.slice(2, R + G * N, G * N), G),
                                                                   .D = p.D,
                                                                   .z = s.xz.slice(2, I, I),
                                                                   .delta_bias = p.dt_bias,
                                                                   .delta_softplus = true,
                                                                   .offsets = pass.offsets,
                                                                   .kept = s.kept,
                                                                   .d_y = d_gated,
                                                                   .d_u = d_u,
                                                                   .d_delta = d_delta,
                                                                   .d_A = d_A,
                                                                   .d_B = split_last(d_dbc.slice(2, R, G * N), G),
                                                                   .d_C = split_last(d_dbc.slice(2, R + G * N, G * N), G),
                                                                   .d_D = g.D,
                                                                   .d_z = d_xz.slice(2, I, I),
                                                                   .d_delta_bias = g.dt_bias});
    decay_backward(pass.ctx, DecayBackwardArgs<T>{.A_log = p.A_log, .d_A = d_A, .d_A_log = g.A_log});

    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = s.dbc.slice(2, 0, R).rows(),
                                                    .weight = p.dt_proj,
                                                    .d_y = d_delta.rows(),
                                                    .d_x = d_dbc.slice(2, 0, R).rows(),
                                                    .d_weight = g.dt_proj});
    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = s.u.rows(),
                                                    .weight = p.x_proj,
                                                    .d_y = d_dbc.rows(),
                                                    .d_x = d_u.rows(),
                                                    .d_weight = g.x_proj,
                                                    .d_bias = {},
                                                    .add_to_d_x = true});

    causal_conv1d_backward(pass.ctx, CausalConv1dBackwardArgs<T>{.x = s.xz.slice(2, 0, I),
                                                                 .weight = p.conv,
                                                                 .bias = p.conv_bias,
                                                                 .offsets = pass.offsets,
                                                                 .d_y = d_u,
                                                                 .d_x = d_xz.slice(2, 0, I),
                                                                 .d_weight = g.conv,
                                                                 .d_bias = g.conv_bias});
    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = x.rows(),
                                                    .weight = p.in_proj,
                                                    .d_y = d_xz.rows(),
                                                    .d_x = d_x.rows(),
                                                    .d_weight = g.in_proj,
                                                    .d_bias = g.in_proj_bias});
  }

  /// One token of each sequence: x, y (B, d_model); the state moves on. No aliasing.
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y,
                   State<T> const& state) {
    Index const B = x.extent(0), I = d.inner(), R = d.rank(), N = d.d_state, G = d.n_groups;
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    auto const xz = scratch.take<T>(Shape<2>{B, 2 * I});
    auto const u = scratch.take<T>(Shape<2>{B, I});
    auto const dbc = scratch.take<T>(Shape<2>{B, R + 2 * G * N});
    auto const gated = scratch.take<T>(Shape<2>{B, I});

    linear(pass.ctx, LinearArgs<T>{.x = x, .weight = p.in_proj, .bias = p.in_proj_bias, .y = xz});
    causal_conv1d_step(pass.ctx, CausalConv1dStepArgs<T>{
                                     .x = xz.slice(1, 0, I), .weight = p.conv, .bias = p.conv_bias, .state = state.conv, .y = u});
    linear(pass.ctx, LinearArgs<T>{.x = u, .weight = p.x_proj, .y = dbc});
    projected_scan_step(pass.ctx, ProjectedScanStepArgs<T>{.u = u,
                                                           .dt = dbc.slice(1, 0, R),
                                                           .dt_weight = p.dt_proj,
                                                           .A_log = p.A_log,
                                                           .B = split_last(dbc.slice(1, R, G * N), G),
                                                           .C = split_last(dbc.slice(1, R + G * N, G * N), G),
                                                           .D = p.D,
                                                           .z = xz.slice(1, I, I),
                                                           .delta_bias = p.dt_bias,
                                                           .delta_softplus = true,
                                                           .state = state.scan,
                                                           .y = gated});
    linear(pass.ctx, LinearArgs<T>{.x = gated, .weight = p.out_proj, .bias = p.out_proj_bias, .y = y});
  }

 private:
  /// All of `s`, in memory of `arena`; the states of the scan only for a backward pass.
  template <class Ctx, Scalar T>
  static void gated_of(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Saved<T>& s, Arena& arena,
                       State<T> const* state, bool learns) {
    Index const B = x.extent(0), L = x.extent(1), I = d.inner(), R = d.rank(), N = d.d_state, G = d.n_groups;
    s.xz = arena.take<T>(Shape<3>{B, L, 2 * I});
    linear(pass.ctx, LinearArgs<T>{.x = x.rows(), .weight = p.in_proj, .bias = p.in_proj_bias, .y = s.xz.rows()});

    s.u = arena.take<T>(Shape<3>{B, L, I});
    CausalConv1dArgs<T> conv{.x = s.xz.slice(2, 0, I), .weight = p.conv, .bias = p.conv_bias, .offsets = pass.offsets, .y = s.u};
    if (state) conv.initial_state = conv.last_state = state->conv;
    causal_conv1d(pass.ctx, conv);

    s.dbc = arena.take<T>(Shape<3>{B, L, R + 2 * G * N});
    s.delta = arena.take<T>(Shape<3>{B, L, I});
    linear(pass.ctx, LinearArgs<T>{.x = s.u.rows(), .weight = p.x_proj, .y = s.dbc.rows()});
    linear(pass.ctx, LinearArgs<T>{.x = s.dbc.slice(2, 0, R).rows(), .weight = p.dt_proj, .y = s.delta.rows()});

    s.A = arena.take<accumulator_t<T>>(Shape<2>{I, N});
    decay(pass.ctx, DecayArgs<T>{.A_log = p.A_log, .A = s.A});
    s.gated = arena.take<T>(Shape<3>{B, L, I});
    SelectiveScanArgs<T> scan{.u = s.u,
                              .delta = s.delta,
                              .A = s.A,
                              .B = split_last(s.dbc.slice(2, R, G * N), G),
                              .C = split_last(s.dbc.slice(2, R + G * N, G * N), G),
                              .D = p.D,
                              .z = s.xz.slice(2, I, I),
                              .delta_bias = p.dt_bias,
                              .delta_softplus = true,
                              .offsets = pass.offsets,
                              .y = s.gated};
    if (learns) scan.kept = s.kept = arena.take<accumulator_t<T>>(Shape<4>{B, scan_chunks(L), N, I});
    if (state) scan.initial_state = scan.last_state = state->scan;
    selective_scan(pass.ctx, scan);
  }
};

}  // namespace blackmamba
