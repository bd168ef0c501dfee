#pragma once
/// \file
/// What the losses of many rows come to, kept where the context computes: nobody has to wait for it.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `loss_sum`. `A` is the accumulator scalar.
template <Scalar A>
struct LossSumArgs {
  View<A const, 1> losses{};       ///< (rows) as `cross_entropy` leaves them: 0 where a row does not count
  View<Token const, 1> targets{};  ///< (rows)
  Token ignore_index = -100;       ///< targets that do not count
  View<A, 1> sum{};                ///< (1) added to
  View<Index, 1> count{};          ///< (1) added to
};

namespace detail {

struct loss_sum_fn {
  template <class Ctx, Scalar A>
  requires std::same_as<A, accumulator_t<A>>
  void operator()(Ctx const& ctx, LossSumArgs<A> const& a) const {
    check_shape("loss_sum", "targets", a.targets, a.losses.shape(), "losses");
    check_shape("loss_sum", "sum", a.sum, Shape<1>{1}, "the one sum");
    check_shape("loss_sum", "count", a.count, Shape<1>{1}, "the one count");
    ProfileRange const range{"loss_sum"};
    loss_sum_on(ctx, a);
  }
};

}  // namespace detail

/// sum += Σ_i losses_i ;   count += number of targets that are not `ignore_index`
///
/// Shapes: losses, targets (rows), any strides; sum, count (1). Summed in `A`, in an order that depends on the number of rows
/// alone: same bits twice. Does not synchronise. Throws `shape_error` on extents that disagree.
inline constexpr detail::loss_sum_fn loss_sum{};

/// Row after row.
template <Scalar A>
void loss_sum_on(Reference const&, LossSumArgs<A> const& a) {
  for (Index i = 0; i < a.losses.extent(0); ++i) {
    a.sum[0] += a.losses[i];
    a.count[0] += a.targets[i] != a.ignore_index;
  }
}

}  // namespace blackmamba
