#pragma once
// What the tests of the verify part share: an operation on every context, and with exact arithmetic.

#include <doctest/doctest.h>

#include <blackmamba/verify/check.hpp>
#include <blackmamba/verify/exact.hpp>

namespace test {

using namespace blackmamba;

/// Passes when the report holds, and says in sentences why not.
inline void check_report(verify::Report const& report) {
  INFO(report.title);
  for (auto const& sentence : report.failures()) FAIL_CHECK(sentence);
  CHECK(static_cast<bool>(report));
}

template <template <Scalar> class P, Scalar T>
void check_contexts() {
  check_report(verify::check<P, T>(Reference{}));
  check_report(verify::check<P, T>(Cpu{1}));
  check_report(verify::check<P, T>(Cpu{2}));
}

/// The reference path takes `Exact<T>`, and with it the error that is left is that of rounding to storage.
template <template <Scalar> class P, Scalar T>
void check_exact() {
  check_report(verify::check<P, verify::Exact<T>>(Reference{}));
}

}  // namespace test
