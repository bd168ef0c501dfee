#pragma once
/// \file
/// Where a problem's tensors live while an operation runs on them.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/tensor.hpp>

namespace blackmamba::verify {

/// Gives an operation its views of a problem's tensors, which live on the host. Specialise it for a context whose memory is
/// elsewhere: `in` copies there, `out` copies there and notes where to bring it back, `finish` waits and brings back.
template <class Ctx>
struct Placement;

/// The host's memory is the context's: nothing moves.
template <std::derived_from<Reference> Ctx>
struct Placement<Ctx> {
  explicit Placement(Ctx const&) {}

  /// A tensor that is read; absent unless `present`.
  template <class T, int Rank>
  View<T const, Rank> in(Tensor<T, Rank> const& tensor, bool present = true) {
    return present ? tensor.view() : View<T const, Rank>{};
  }

  /// A tensor that is written, or read and written; absent unless `present`.
  template <class T, int Rank>
  View<T, Rank> out(Tensor<T, Rank>& tensor, bool present = true) {
    return present ? tensor.view() : View<T, Rank>{};
  }

  /// When this returns, the problem's tensors hold what was written.
  void finish() {}
};

}  // namespace blackmamba::verify
