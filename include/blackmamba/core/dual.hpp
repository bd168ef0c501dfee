#pragma once
/// \file
/// Dual numbers: a + b ε with ε² = 0. A function computed on Dual{x, dx} returns {f(x), f'(x) dx}, exact to the rounding of `T`.
///
/// The reference path is generic over the scalar, so a forward pass instantiated with `Dual<double>` gives the directional
/// derivative of a whole network, and that is what the hand-written backward passes are judged by.
/// Source: Clifford 1871; Griewank & Walther, "Evaluating Derivatives", 2nd ed., ch. 3.

#include <concepts>
#include <type_traits>

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/scalar.hpp>

namespace blackmamba {

/// A value and its derivative in one direction. Comparisons look at the value alone, so branches follow the primal computation.
template <std::floating_point T>
struct Dual {
  T value{};
  T tangent{};

  constexpr Dual() = default;
  template <class A>
  requires std::is_arithmetic_v<A>
  constexpr Dual(A v) : value(static_cast<T>(v)) {}
  constexpr Dual(T v, T t) : value(v), tangent(t) {}

  /// Drops the derivative: for indices, reports and comparisons of values only.
  template <class A>
  requires std::is_arithmetic_v<A>
  constexpr explicit operator A() const { return static_cast<A>(value); }

  friend constexpr Dual operator+(Dual a) { return a; }
  friend constexpr Dual operator-(Dual a) { return {-a.value, -a.tangent}; }
  friend constexpr Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.tangent + b.tangent}; }
  friend constexpr Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.tangent - b.tangent}; }
  friend constexpr Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.tangent * b.value + a.value * b.tangent}; }
  friend constexpr Dual operator/(Dual a, Dual b) {
    T const quotient = a.value / b.value;
    return {quotient, (a.tangent - quotient * b.tangent) / b.value};
  }
  constexpr Dual& operator+=(Dual b) { return *this = *this + b; }
  constexpr Dual& operator-=(Dual b) { return *this = *this - b; }
  constexpr Dual& operator*=(Dual b) { return *this = *this * b; }
  constexpr Dual& operator/=(Dual b) { return *this = *this / b; }

  friend constexpr bool operator==(Dual a, Dual b) { return a.value == b.value; }
  friend constexpr auto operator<=>(Dual a, Dual b) { return a.value <=> b.value; }
};

template <class T>
Dual<T> exp(Dual<T> x) {
  T const e = std::exp(x.value);
  return {e, e * x.tangent};
}
template <class T>
Dual<T> expm1(Dual<T> x) {
  return {std::expm1(x.value), std::exp(x.value) * x.tangent};
}
template <class T>
Dual<T> log(Dual<T> x) {
  return {std::log(x.value), x.tangent / x.value};
}
template <class T>
Dual<T> log1p(Dual<T> x) {
  return {std::log1p(x.value), x.tangent / (T(1) + x.value)};
}
template <class T>
Dual<T> sqrt(Dual<T> x) {
  T const root = std::sqrt(x.value);
  return {root, x.tangent / (T(2) * root)};
}
template <class T>
Dual<T> tanh(Dual<T> x) {
  T const t = std::tanh(x.value);
  return {t, (T(1) - t * t) * x.tangent};
}
template <class T>
Dual<T> erf(Dual<T> x) {
  constexpr T two_over_sqrt_pi = T(1.128379167095512573896158903121545172L);
  return {std::erf(x.value), two_over_sqrt_pi * std::exp(-x.value * x.value) * x.tangent};
}
template <class T>
Dual<T> sin(Dual<T> x) {
  return {std::sin(x.value), std::cos(x.value) * x.tangent};
}
template <class T>
Dual<T> cos(Dual<T> x) {
  return {std::cos(x.value), -std::sin(x.value) * x.tangent};
}
/// x^p for a constant exponent.
template <class T>
Dual<T> pow(Dual<T> x, T p) {
  return {std::pow(x.value, p), p * std::pow(x.value, p - T(1)) * x.tangent};
}
template <class T>
Dual<T> abs(Dual<T> x) {
  return x.value < T(0) ? -x : x;
}
template <class T>
bool isfinite(Dual<T> x) {
  return std::isfinite(x.value) && std::isfinite(x.tangent);
}

template <class T>
struct scalar_traits<Dual<T>> {
  static constexpr char const* name = "dual";
  static constexpr double unit_roundoff = scalar_traits<T>::unit_roundoff;
};

static_assert(Scalar<Dual<double>>);

}  // namespace blackmamba
