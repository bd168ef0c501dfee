#pragma once
/// \file
/// Elementwise non-linearities and gated units on matrices.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba {

/// Arguments of `activation`.
template <Scalar T>
struct ActivationArgs {
  Activation kind = Activation::identity;
  View<T const, 2> x{};  ///< (rows, D)
  View<T, 2> y{};        ///< (rows, D)
};

/// Arguments of `gated_unit`.
template <Scalar T>
struct GatedUnitArgs {
  Activation kind = Activation::identity;
  View<T const, 2> gate{};   ///< (rows, D) goes through the non-linearity
  View<T const, 2> value{};  ///< (rows, D) is multiplied by it
  View<T, 2> y{};            ///< (rows, D)
};

namespace detail {

/// Throws for a number that names no activation, as a cast from a file's field may give.
inline void check_kind(char const* op, Activation kind) {
  int const number = static_cast<int>(kind);
  check_value(number >= 0 && number <= static_cast<int>(Activation::gelu_tanh), op, "kind is ", number, ", which is no activation");
}

struct activation_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, ActivationArgs<T> const& a) const {
    check_kind("activation", a.kind);
    check_shape("activation", "y", a.y, a.x.shape(), "x");
    ProfileRange const range{"activation"};
    activation_on(ctx, a);
  }
};

struct gated_unit_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, GatedUnitArgs<T> const& a) const {
    check_kind("gated_unit", a.kind);
    check_shape("gated_unit", "value", a.value, a.gate.shape(), "gate");
    check_shape("gated_unit", "y", a.y, a.gate.shape(), "gate");
    ProfileRange const range{"gated_unit"};
    gated_unit_on(ctx, a);
  }
};

}  // namespace detail

/// A non-linearity, element by element: y = kind(x), with the functions of activation/functions.hpp.
///
/// Shapes: x, y (rows, D). Any strides; fast paths want the last dimension contiguous. Stored in `T`, computed in
/// accumulator_t<T>, rounded once. `y` may be `x`. Does not synchronise.
/// Throws `shape_error` if y differs from x, `value_error` on a kind that is none. Sources: see functions.hpp.
inline constexpr detail::activation_fn activation{};

/// A gated linear unit after its projection: y = kind(gate) · value, element by element. With silu it is SwiGLU, with gelu GEGLU.
///
/// Shapes: gate, value, y (rows, D); gate and value are often the halves of one (rows, 2D) matrix, seen by `slice`. Any strides;
/// fast paths want the last dimension contiguous. Stored in `T`, computed in accumulator_t<T>, rounded once. `y` may be `gate` or
/// `value`. Does not synchronise. Throws `shape_error` naming the argument that disagrees, `value_error` on a kind that is none.
/// Source: Shazeer 2020, arXiv:2002.05202.
inline constexpr detail::gated_unit_fn gated_unit{};

}  // namespace blackmamba

#include <blackmamba/ops/activation/cpu.hpp>
#include <blackmamba/ops/activation/reference.hpp>
