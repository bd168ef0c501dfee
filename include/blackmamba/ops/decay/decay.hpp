#pragma once
/// \file
/// The decay matrix of a state-space layer from its learnt logarithm.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/math.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `decay`.
template <Scalar T>
struct DecayArgs {
  View<T const, 2> A_log{};       ///< (D, N)
  View<accumulator_t<T>, 2> A{};  ///< (D, N)
};

namespace detail {

struct decay_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, DecayArgs<T> const& args) const {
    check_shape("decay", "A", args.A, args.A_log.shape(), "A_log");
    ProfileRange const range{"decay"};
    decay_on(ctx, args);
  }
};

}  // namespace detail

/// A = -exp(A_log): negative whatever is learnt, so that every state decays.
///
/// Shapes: both (D, N), any strides. `A_log` is stored in `T`; A stays in accumulator_t<T>, which is what the scan reads.
/// No aliasing. Does not synchronise. Throws `shape_error`. Source: Gu & Dao 2023, arXiv:2312.00752, section 3.6.
inline constexpr detail::decay_fn decay{};

/// Plain loops.
template <Scalar T>
void decay_on(Reference const&, DecayArgs<T> const& args) {
  for (Index d = 0; d < args.A.extent(0); ++d)
    for (Index n = 0; n < args.A.extent(1); ++n) args.A(d, n) = -exp(widen(args.A_log(d, n)));
}

}  // namespace blackmamba

#include <blackmamba/ops/decay/cpu.hpp>
