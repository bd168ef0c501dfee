#pragma once
/// \file
/// Two tensors side by side: the error as a share of what is allowed, and where it is largest.

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/verify/tolerance.hpp>

namespace blackmamba::verify {

/// What a comparison found. It holds when `share` ≤ 1; a NaN on one side only makes the share infinite.
struct Comparison {
  double share = 0;     ///< largest error ÷ its allowed error
  double error = 0;     ///< the absolute error at that element
  double allowed = 0;   ///< the error allowed there
  double got = 0;       ///< the value found there
  double expected = 0;  ///< the value expected there
  double scale = 0;     ///< largest |expected|, or the magnitude that is known to be summed if it is larger
  double largest = 0;   ///< largest absolute error, wherever it is
  Index at = -1;        ///< the element, row-major; -1 when nothing was compared or nothing differs
  Index count = 0;      ///< elements compared

  explicit operator bool() const { return share <= 1; }

  /// The largest error as a share of `scale`, whatever is allowed.
  double scaled() const { return largest == 0 ? 0 : largest / scale; }

  /// One line for a report or a failed test.
  std::string describe() const {
    return concat(count, " elements, worst error ", share, " of allowed", at < 0 ? "" : " at element ",
                  at < 0 ? std::string{} : concat(at), ": got ", got, ", expected ", expected, " (error ", error, ", allowed ",
                  allowed, ")");
  }
};

/// Compares element by element under an allowed error given by a function of (expected, scale).
template <class T, class E, int Rank, class Allowed>
Comparison compare_with(View<T, Rank> got, View<E, Rank> expected, Allowed&& allowed) {
  check_shape("compare", "got", got.shape(), expected.shape(), "expected");
  Comparison out;
  auto const wide_got = converted<double>(View<T const, Rank>{got});
  auto const wide_expected = converted<double>(View<E const, Rank>{expected});
  for (double x : wide_expected)
    if (std::isfinite(x) && std::fabs(x) > out.scale) out.scale = std::fabs(x);
  out.count = wide_expected.size();
  for (Index i = 0; i < out.count; ++i) {
    double const g = wide_got.data()[i], e = wide_expected.data()[i];
    bool const same = g == e || (std::isnan(g) && std::isnan(e));
    double const error = same ? 0 : std::fabs(g - e);
    double const limit = allowed(e, out.scale);
    double share = same ? 0 : error / limit;
    if (std::isnan(share)) share = HUGE_VAL;
    out.largest = std::fmax(out.largest, std::isnan(error) ? HUGE_VAL : error);
    if (share > out.share) {
      out.share = share, out.error = error, out.allowed = limit;
      out.got = g, out.expected = e, out.at = i;
    }
  }
  return out;
}

/// Compares a tensor stored in `T` with the exact one under the library's table.
template <class T, class E, int Rank>
Comparison compare(View<T, Rank> got, View<E, Rank> expected, Cost const& cost) {
  auto out =
      compare_with(got, expected, [&](double e, double scale) { return allowed_error<std::remove_const_t<T>>(cost, e, scale); });
  out.scale = std::fmax(out.scale, cost.scale);
  return out;
}

/// Compares under a bound relative to the largest |expected|: what the published goldens are held to.
template <class T, class E, int Rank>
Comparison compare_scaled(View<T, Rank> got, View<E, Rank> expected, double relative_to_largest) {
  return compare_with(got, expected, [&](double, double scale) { return relative_to_largest * scale; });
}

}  // namespace blackmamba::verify
