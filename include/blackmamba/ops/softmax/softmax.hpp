#pragma once
/// \file
/// Softmax and log-softmax over the rows of a matrix.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `softmax` and `log_softmax`.
template <Scalar T>
struct SoftmaxArgs {
  View<T const, 2> x{};  ///< (rows, D)
  View<T, 2> y{};        ///< (rows, D)
};

namespace detail {

struct softmax_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, SoftmaxArgs<T> const& a) const {
    check_shape("softmax", "y", a.y, a.x.shape(), "x");
    ProfileRange const range{"softmax"};
    if (a.x.size() > 0) softmax_on(ctx, a);
  }
};

struct log_softmax_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, SoftmaxArgs<T> const& a) const {
    check_shape("log_softmax", "y", a.y, a.x.shape(), "x");
    ProfileRange const range{"log_softmax"};
    if (a.x.size() > 0) log_softmax_on(ctx, a);
  }
};

}  // namespace detail

/// Probabilities from logits, row by row:
///
///   y_i = e^(x_i - max x) / sum_j e^(x_j - max x)
///
/// Shapes: x, y (rows, D). Any strides; fast paths want the last dimension contiguous. Stored in `T`, all arithmetic in
/// accumulator_t<T>. An element of -inf gets probability 0; a row that holds NaN or +inf, or nothing but -inf, becomes NaN.
/// `y` may be `x`. Does not synchronise. Throws `shape_error` if y differs from x.
/// Source: Blanchard, Higham & Higham 2021, "Accurately computing the log-sum-exp and softmax functions" (the shifted form).
inline constexpr detail::softmax_fn softmax{};

/// Logarithms of the probabilities, without computing a probability that could underflow:
///
///   y_i = (x_i - max x) - log sum_j e^(x_j - max x)
///
/// The sum's 1, of the largest element, is added by log1p, so logarithms near 0 keep their digits.
/// An element of -inf stays -inf. All else is as for `softmax`.
inline constexpr detail::log_softmax_fn log_softmax{};

}  // namespace blackmamba

#include <blackmamba/ops/softmax/cpu.hpp>
#include <blackmamba/ops/softmax/reference.hpp>
