#pragma once
/// \file
/// The normalisations as layers: parameters, and the fused residual add that every block begins with.

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/ops/layer_norm/backward.hpp>
#include <blackmamba/ops/rms_norm/backward.hpp>

namespace blackmamba {

/// Root-mean-square normalisation: what stands before every mixer of the published models.
struct RmsNorm {
  template <class T>
  struct Params {
    View<T, 1> weight{};  ///< (d)
  };

  static constexpr void parameters(auto& p, Index width, auto& visit) {
    visit("weight", p.weight, Shape<1>{width}, Init::ones, Decay::no);
  }

  /// residual ← residual + x; y = norm(residual). Either of x and residual may be absent. (rows, d) all.
  template <class Ctx, Scalar T>
  static void apply(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x,
                    Output<accumulator_t<T>, 2> residual, Output<T, 2> y) {
    rms_norm(pass.ctx, RmsNormArgs<T>{.x = x, .weight = p.weight, .residual = residual, .y = y, .epsilon = d.norm_epsilon});
  }

  /// From the stream as `apply` left it: d_residual in, what reaches the stream from above; out, its whole gradient. Added to g.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<accumulator_t<T>, 2> residual,
                       Input<T, 2> d_y, Output<accumulator_t<T>, 2> d_residual, Params<accumulator_t<T>> const& g) {
    rms_norm_backward(pass.ctx, RmsNormBackwardArgs<T>{.weight = p.weight,
                                                       .residual = residual,
                                                       .epsilon = d.norm_epsilon,
                                                       .d_y = d_y,
                                                       .d_residual = d_residual,
                                                       .d_weight = g.weight});
  }
};

/// Layer normalisation with bias: what stands after the last layer of the published models.
struct LayerNorm {
  template <class T>
  struct Params {
    View<T, 1> weight{};  ///< (d)
    View<T, 1> bias{};    ///< (d)
  };

  static constexpr void parameters(auto& p, Index width, auto& visit) {
    visit("weight", p.weight, Shape<1>{width}, Init::ones, Decay::no);
    visit("bias", p.bias, Shape<1>{width}, Init::zeros, Decay::no);
  }

  /// residual ← residual + x; y = norm(residual). Either of x and residual may be absent. (rows, d) all.
  template <class Ctx, Scalar T>
  static void apply(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x,
                    Output<accumulator_t<T>, 2> residual, Output<T, 2> y) {
    layer_norm(pass.ctx, LayerNormArgs<T>{
                             .x = x, .weight = p.weight, .bias = p.bias, .residual = residual, .y = y, .epsilon = d.norm_epsilon});
  }

  /// From the stream as `apply` left it: d_residual in, what reaches the stream from above; out, its whole gradient. Added to g.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<accumulator_t<T>, 2> residual,
                       Input<T, 2> d_y, Output<accumulator_t<T>, 2> d_residual, Params<accumulator_t<T>> const& g) {
    layer_norm_backward(pass.ctx, LayerNormBackwardArgs<T>{.weight = p.weight,
                                                           .residual = residual,
                                                           .epsilon = d.norm_epsilon,
                                                           .d_y = d_y,
                                                           .d_residual = d_residual,
                                                           .d_weight = g.weight,
                                                           .d_bias = g.bias});
  }
};

}  // namespace blackmamba
