#include <blackmamba/core/dual.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

using D = Dual<double>;

/// f on a dual number against its central difference in long double. One step of Richardson's extrapolation from h = 2^-12 leaves
/// an error of about h^4 = 2^-48 times the fifth derivative over 480: the gain over a double's rounding.
template <class F>
void check_derivative(char const* name, F const& f, std::initializer_list<double> points) {
  for (double x : points) {
    INFO(concat(name, " at ", x));
    auto const close = [](double got, double expected) {
      return std::fabs(got - expected) <= verify::allowed_error<double>({.gain = 32, .scale = 1}, expected, std::fabs(expected));
    };
    D const got = f(D{x, 1.0});
    CHECK(got.value == f(x));
    CHECK(f(D{x}).tangent == 0);
    CHECK(close(f(D{x, -3.0}).tangent, -3 * got.tangent));
    long double const at = x, h = 0x1p-12L;
    auto const central = [&](long double step) { return (f(at + step) - f(at - step)) / (2 * step); };
    CHECK(close(got.tangent, static_cast<double>((4 * central(h / 2) - central(h)) / 3)));
  }
}

}  // namespace

TEST_CASE("dual: every elementary function carries the derivative that a central difference shows") {
  check_derivative("exp", [](auto x) { return exp(x); }, {-3.0, -0.1, 0.0, 1.5});
  check_derivative("expm1", [](auto x) { return expm1(x); }, {-3.0, 1e-3, 0.0, 1.5});
  check_derivative("log", [](auto x) { return log(x); }, {0.5, 1.0, 7.0});
  check_derivative("log1p", [](auto x) { return log1p(x); }, {-0.5, 0.0, 3.0});
  check_derivative("sqrt", [](auto x) { return sqrt(x); }, {0.3, 1.0, 9.0});
  check_derivative("tanh", [](auto x) { return tanh(x); }, {-2.0, 0.0, 0.7});
  check_derivative("erf", [](auto x) { return erf(x); }, {-1.2, 0.0, 0.4});
  check_derivative("sin", [](auto x) { return sin(x); }, {-1.0, 0.0, 2.0});
  check_derivative("cos", [](auto x) { return cos(x); }, {-1.0, 0.5, 2.0});
  check_derivative("abs", [](auto x) { return abs(x); }, {-2.0, 0.5});
}

TEST_CASE("dual: sum, difference, product, quotient and chain follow the rules of differentiation") {
  D const a{3.0, 0.5}, b{-2.0, 0.25};
  CHECK((a + b).value == 1);
  CHECK((a + b).tangent == 0.75);
  CHECK((a - b).tangent == 0.25);
  CHECK((-a).tangent == -0.5);
  CHECK((a * b).value == -6);
  CHECK((a * b).tangent == 0.5 * -2 + 3 * 0.25);
  CHECK((a / b).value == -1.5);
  CHECK((a / b).tangent == (0.5 * -2 - 3 * 0.25) / 4);
  D c = a;
  c += b, c *= b, c -= a, c /= D{2};
  CHECK(c.value == ((3 - 2) * -2 - 3) / 2.0);
  CHECK(c.tangent == (0.75 * -2 + 1 * 0.25 - 0.5) / 2);
  // d/dx sin(exp(2x)) = 2 e^{2x} cos(e^{2x})
  D const x{0.3, 1.0};
  CHECK(sin(exp(2 * x)).tangent == 2 * std::exp(0.6) * std::cos(std::exp(0.6)));
  // (x²)' through a product of the number with itself
  CHECK((x * x).tangent == 0.6);
}

TEST_CASE("dual: a power with a constant exponent has the derivative p x^(p-1)") {
  for (double p : {2.5, -1.0, 1.0, 0.5}) {
    D const power = pow(D{1.7, 2.0}, p);
    CHECK(power.value == std::pow(1.7, p));
    CHECK(power.tangent == p * std::pow(1.7, p - 1) * 2);
  }
}

TEST_CASE("dual: branches follow the value alone, and constants have no derivative") {
  CHECK(D{1.0, 5.0} == D{1.0, -5.0});
  CHECK(D{1.0, 5.0} < D{2.0, -5.0});
  CHECK(D{2}.tangent == 0);
  CHECK(static_cast<double>(D{2.0, 9.0}) == 2);
  CHECK(static_cast<int>(D{2.5, 9.0}) == 2);
  CHECK_FALSE(isfinite(D{1.0, HUGE_VAL}));
  CHECK_FALSE(isfinite(D{HUGE_VAL, 1.0}));
  CHECK(isfinite(D{1.0, 1.0}));
}
