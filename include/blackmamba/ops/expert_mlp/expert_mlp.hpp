#pragma once
/// \file
/// The feed-forward networks of a mixture's experts, each on the rows that were dispatched to it.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/ops/activation/activation.hpp>

namespace blackmamba {

/// Arguments of `expert_mlp`. F is the hidden width; F1 = 2 F with `gated`, else F.
template <Scalar T>
struct ExpertMlpArgs {
  View<T const, 2> x{};            ///< (rows, D) sorted by expert
  View<Index const, 1> offsets{};  ///< (E + 1) expert e has the rows [offsets[e], offsets[e + 1]); offsets[0] = 0
  View<T const, 3> fc1{};          ///< (E, F1, D) with `gated`: the rows of the gate, then those of the value
  View<T const, 2> bias1{};        ///< optional (E, F1)
  View<T const, 3> fc2{};          ///< (E, D, F)
  View<T const, 2> bias2{};        ///< optional (E, D)
  Activation activation = Activation::identity;
  bool gated = false;
  View<T, 2> y{};       ///< (rows, D)
  View<T, 2> hidden{};  ///< optional (rows, F1) out: h, for the backward pass
};

namespace detail {

struct expert_mlp_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, ExpertMlpArgs<T> const& a) const {
    Index const E = a.fc2.extent(0), D = a.x.extent(1), F = a.fc2.extent(2), F1 = a.gated ? 2 * F : F;
    check_kind("expert_mlp", a.activation);
    check_shape("expert_mlp", "fc2", a.fc2, Shape<3>{E, D, F}, "x");
    check_shape("expert_mlp", "fc1", a.fc1, Shape<3>{E, F1, D}, a.gated ? "fc2 with a gate" : "fc2 without a gate");
    if (a.bias1) check_shape("expert_mlp", "bias1", a.bias1, Shape<2>{E, F1}, "fc1");
    if (a.bias2) check_shape("expert_mlp", "bias2", a.bias2, Shape<2>{E, D}, "fc2");
    check_shape("expert_mlp", "offsets", a.offsets, Shape<1>{E + 1}, "fc2");
    check_shape("expert_mlp", "y", a.y, a.x.shape(), "x");
    if (a.hidden) check_shape("expert_mlp", "hidden", a.hidden, Shape<2>{a.x.extent(0), F1}, "x and fc1");
    ProfileRange const range{"expert_mlp"};
    expert_mlp_on(ctx, a);
  }
};

}  // namespace detail

/// Two linear maps with a non-linearity between them, by the weights of the expert that a row belongs to:
///
///   h = W1_e x + b1_e ;   a = act(h), or act(first half of h) · second half with `gated` ;   y = W2_e a + b2_e
///
/// Shapes: x, y (rows, D); offsets (E + 1); fc1 (E, F1, D); bias1 (E, F1); fc2 (E, D, F); bias2 (E, D); hidden (rows, F1). An
/// expert may have no rows. Rows from offsets[E] on, which `dispatch` leaves to dropped assignments, are neither read nor written.
/// Any strides. Stored in `T`, h and a as well: each is rounded once; all sums and the non-linearity are in accumulator_t<T>. On
/// `Cpu` the result is the same bit for bit on any number of threads. `y` may be `x`; nothing else may alias. Does not synchronise.
/// Throws `shape_error` naming the argument that disagrees, `value_error` on an unknown activation and on offsets that do not rise
/// from 0 to at most `rows`; nothing is written then.
/// Source: Anthony et al. 2024, arXiv:2402.01771; gated units Shazeer 2020, arXiv:2002.05202.
inline constexpr detail::expert_mlp_fn expert_mlp{};

}  // namespace blackmamba

#include <blackmamba/ops/expert_mlp/cpu.hpp>
#include <blackmamba/ops/expert_mlp/reference.hpp>
