#pragma once
/// \file
/// Gradients of the experts' networks: of their inputs, their weights and their biases.

#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>

namespace blackmamba {

/// Arguments of `expert_mlp_backward`. F is the hidden width; F1 = 2 F with `gated`, else F.
template <Scalar T>
struct ExpertMlpBackwardArgs {
  View<T const, 2> x{};            ///< (rows, D) sorted by expert
  View<Index const, 1> offsets{};  ///< (E + 1) expert e has the rows [offsets[e], offsets[e + 1]); offsets[0] = 0
  View<T const, 3> fc1{};          ///< (E, F1, D)
  View<T const, 2> bias1{};        ///< optional (E, F1)
  View<T const, 3> fc2{};          ///< (E, D, F)
  View<T const, 2> bias2{};        ///< optional (E, D); no gradient depends on it
  Activation activation = Activation::identity;
  bool gated = false;
  View<T const, 2> d_y{};               ///< (rows, D) gradient of the loss by the outputs
  View<T, 2> d_x{};                     ///< optional (rows, D) out, overwritten
  View<accumulator_t<T>, 3> d_fc1{};    ///< optional (E, F1, D), added to
  View<accumulator_t<T>, 2> d_bias1{};  ///< optional (E, F1), added to
  View<accumulator_t<T>, 3> d_fc2{};    ///< optional (E, D, F), added to
  View<accumulator_t<T>, 2> d_bias2{};  ///< optional (E, D), added to
  View<T const, 2> hidden{};            ///< optional (rows, F1): h as the forward pass left it
};

namespace detail {

struct expert_mlp_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, ExpertMlpBackwardArgs<T> const& a) const {
    constexpr char const* op = "expert_mlp_backward";
    Index const E = a.fc2.extent(0), D = a.x.extent(1), F = a.fc2.extent(2), F1 = a.gated ? 2 * F : F;
    check_kind(op, a.activation);
    check_shape(op, "fc2", a.fc2, Shape<3>{E, D, F}, "x");
    check_shape(op, "fc1", a.fc1, Shape<3>{E, F1, D}, a.gated ? "fc2 with a gate" : "fc2 without a gate");
    if (a.bias1) check_shape(op, "bias1", a.bias1, Shape<2>{E, F1}, "fc1");
    if (a.bias2) check_shape(op, "bias2", a.bias2, Shape<2>{E, D}, "fc2");
    check_shape(op, "offsets", a.offsets, Shape<1>{E + 1}, "fc2");
    check_shape(op, "d_y", a.d_y, a.x.shape(), "x");
    if (a.d_x) check_shape(op, "d_x", a.d_x, a.x.shape(), "x");
    if (a.d_fc1) check_shape(op, "d_fc1", a.d_fc1, a.fc1.shape(), "fc1");
    if (a.d_bias1) check_shape(op, "d_bias1", a.d_bias1, Shape<2>{E, F1}, "fc1");
    if (a.d_fc2) check_shape(op, "d_fc2", a.d_fc2, a.fc2.shape(), "fc2");
    if (a.d_bias2) check_shape(op, "d_bias2", a.d_bias2, Shape<2>{E, D}, "fc2");
    if (a.hidden) check_shape(op, "hidden", a.hidden, Shape<2>{a.x.extent(0), F1}, "x and fc1");
    ProfileRange const range{op};
    expert_mlp_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradients of `expert_mlp`. Without `hidden` the hidden values are computed again, so that nothing but its inputs need be kept;
/// with sums over the rows of expert e, and g and v the two halves of h with `gated`:
///
///   h = W1_e x + b1_e ;   a = act(h), or act(g) · v
///   d_a = W2_eᵀ d_y ;   d_W2_e += Σ d_y aᵀ ;   d_b2_e += Σ d_y
///   d_h = d_a · act'(h), or its halves d_g = d_a · v · act'(g) and d_v = d_a · act(g)
///   d_x = W1_eᵀ d_h ;   d_W1_e += Σ d_h xᵀ ;   d_b1_e += Σ d_h
///
/// Shapes: x, d_y, d_x (rows, D); offsets (E + 1); fc1, d_fc1 (E, F1, D); bias1, d_bias1 (E, F1); fc2, d_fc2 (E, D, F); bias2,
/// d_bias2 (E, D); hidden (rows, F1). Any strides. `d_x` is stored in `T` and overwritten; the gradients of the parameters are
/// accumulator_t<T> and added to; an absent one is not computed. An expert without rows has its gradients left as they are, and
/// rows from offsets[E] on are neither read nor written. h, a, d_a and d_h are each rounded to `T` once, h and a as in the forward
/// pass; all sums are in accumulator_t<T>. On `Cpu` the result is the same bit for bit on any number of threads, and temporary
/// memory is that of a bounded number of rows. `d_x` may be `d_y`; nothing else may alias. Does not synchronise. Throws
/// `shape_error` naming the argument that disagrees, `value_error` on an unknown activation and on offsets that do not rise from 0
/// to at most `rows`; nothing is written then. Source: Anthony et al. 2024, arXiv:2402.01771; gated units Shazeer 2020,
/// arXiv:2002.05202.
inline constexpr detail::expert_mlp_backward_fn expert_mlp_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/expert_mlp/backward_cpu.hpp>
#include <blackmamba/ops/expert_mlp/backward_reference.hpp>
