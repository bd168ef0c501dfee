#pragma once
/// \file
/// The backward passes of the elementwise non-linearities and of the gated units.

#include <blackmamba/ops/activation/activation.hpp>
#include <blackmamba/ops/activation/derivatives.hpp>

namespace blackmamba {

/// Arguments of `activation_backward`.
template <Scalar T>
struct ActivationBackwardArgs {
  Activation kind = Activation::identity;
  View<T const, 2> x{};    ///< (rows, D)
  View<T const, 2> d_y{};  ///< (rows, D)
  View<T, 2> d_x{};        ///< (rows, D), overwritten
};

/// Arguments of `gated_unit_backward`.
template <Scalar T>
struct GatedUnitBackwardArgs {
  Activation kind = Activation::identity;
  View<T const, 2> gate{};   ///< (rows, D)
  View<T const, 2> value{};  ///< (rows, D)
  View<T const, 2> d_y{};    ///< (rows, D)
  View<T, 2> d_gate{};       ///< (rows, D), optional: overwritten
  View<T, 2> d_value{};      ///< (rows, D), optional: overwritten
};

namespace detail {

struct activation_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, ActivationBackwardArgs<T> const& a) const {
    constexpr char const* op = "activation_backward";
    check_kind(op, a.kind);
    check_shape(op, "d_y", a.d_y, a.x.shape(), "x");
    check_shape(op, "d_x", a.d_x, a.x.shape(), "x");
    ProfileRange const range{op};
    activation_backward_on(ctx, a);
  }
};

struct gated_unit_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, GatedUnitBackwardArgs<T> const& a) const {
    constexpr char const* op = "gated_unit_backward";
    check_kind(op, a.kind);
    check_shape(op, "value", a.value, a.gate.shape(), "gate");
    check_shape(op, "d_y", a.d_y, a.gate.shape(), "gate");
    if (a.d_gate) check_shape(op, "d_gate", a.d_gate, a.gate.shape(), "gate");
    if (a.d_value) check_shape(op, "d_value", a.d_value, a.gate.shape(), "gate");
    ProfileRange const range{op};
    gated_unit_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradient of `activation`, y = kind(x), from d_y = ∂loss/∂y: d_x = d_y · kind'(x), with the derivatives of
/// activation/derivatives.hpp; that of relu at 0 is 0.
///
/// Shapes: x, d_y, d_x (rows, D). Any strides; fast paths want the last dimension contiguous. Stored in `T`, computed in
/// accumulator_t<T>, rounded once. `d_x` may be `x` or `d_y`. Does not synchronise.
/// Throws `shape_error` naming the argument that differs from x, `value_error` on a kind that is none.
inline constexpr detail::activation_backward_fn activation_backward{};

/// Gradients of `gated_unit`, y = kind(gate) · value, from d_y = ∂loss/∂y:
///
///   d_gate = d_y · value · kind'(gate) ;   d_value = d_y · kind(gate)
///
/// Shapes: all (rows, D); gate and value, and their gradients, are often the halves of one (rows, 2D) matrix, seen by `slice`. Any
/// strides; fast paths want the last dimension contiguous. Stored in `T`, computed in accumulator_t<T>, rounded once. An absent
/// gradient is not computed. Each gradient may be any one of `gate`, `value` and `d_y`, but not the other gradient. Does not
/// synchronise. Throws `shape_error` naming the argument that differs from gate, `value_error` on a kind that is none.
inline constexpr detail::gated_unit_backward_fn gated_unit_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/activation/backward_cpu.hpp>
#include <blackmamba/ops/activation/backward_reference.hpp>
