#pragma once
/// \file
/// What one expert, or a dense MLP, computes between its two linear maps. A policy is a type; adding one is a line.
///
///   gated:  fc2(activation(a) · b) with (a, b) = fc1(x)      fc1 has 2 d_ffn rows
///   plain:  fc2(activation(fc1(x)))                          fc1 has d_ffn rows
///
/// Source: Shazeer 2020, arXiv:2002.05202.

#include <concepts>

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba {

/// A gated unit: the first half of fc1 gates the second.
template <Activation Kind>
struct GatedUnit {
  static constexpr bool gated(Dims const&) { return true; }
  static constexpr Activation activation(Dims const&) { return Kind; }
};

/// A plain activation.
template <Activation Kind>
struct PlainUnit {
  static constexpr bool gated(Dims const&) { return false; }
  static constexpr Activation activation(Dims const&) { return Kind; }
};

/// What the published code computes where its configuration says `swiglu`: the gate is the exact GELU.
using GeGlu = GatedUnit<Activation::gelu_erf>;
/// What the paper's text says: the gate is SiLU.
using SwiGlu = GatedUnit<Activation::silu>;
using ReGlu = GatedUnit<Activation::relu>;
/// What the published code computes without `swiglu`.
using Gelu = PlainUnit<Activation::gelu_erf>;
using SquaredRelu = PlainUnit<Activation::relu_squared>;

/// Whatever the sizes say, `dims.gated` and `dims.activation`: for networks that come from a file. One type serves them all, so a
/// program that loads any checkpoint compiles each layer once.
struct ConfiguredUnit {
  static constexpr bool gated(Dims const& d) { return d.gated; }
  static constexpr Activation activation(Dims const& d) { return d.activation; }
};

namespace detail {

template <class E>
concept HasGated = requires(Dims const& d) {
  { E::gated(d) } -> std::same_as<bool>;
};
template <class E>
concept HasActivation = requires(Dims const& d) {
  { E::activation(d) } -> std::same_as<Activation>;
};

}  // namespace detail

/// A policy for the inside of an expert.
template <class E>
concept Expert = detail::HasGated<E> && detail::HasActivation<E>;

/// Stops the compilation with a sentence unless `E` is an expert.
template <class E>
consteval bool require_expert() {
  static_assert(detail::HasGated<E>, "this expert has no static gated(dims) that answers bool");
  static_assert(detail::HasActivation<E>, "this expert has no static activation(dims) that answers an Activation");
  return true;
}

/// Rows of fc1.
template <Expert E>
constexpr Index fc1_rows(Dims const& d) {
  return E::gated(d) ? 2 * d.d_ffn : d.d_ffn;
}

}  // namespace blackmamba
