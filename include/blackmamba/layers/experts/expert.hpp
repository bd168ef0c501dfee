#pragma once
/// \file
/// What one expert, or a dense MLP, computes between its two linear maps. A policy is a type; adding one is a line.
///
///   gated:  fc2(activation(a) · b) with (a, b) = fc1(x)      fc1 has 2 d_ffn rows
///   plain:  fc2(activation(fc1(x)))                          fc1 has d_ffn rows
///
/// Source: Shazeer 2020, arXiv:2002.05202.

#include <concepts>

#include <blackmamba/core/config.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba {

/// A gated unit: the first half of fc1 gates the second.
template <Activation Kind>
struct GatedUnit {
  static constexpr bool gated = true;
  static constexpr Activation activation = Kind;
};

/// A plain activation.
template <Activation Kind>
struct PlainUnit {
  static constexpr bool gated = false;
  static constexpr Activation activation = Kind;
};

/// What the published code computes where its configuration says `swiglu`: the gate is the exact GELU.
using GeGlu = GatedUnit<Activation::gelu_erf>;
/// What the paper's text says: the gate is SiLU.
using SwiGlu = GatedUnit<Activation::silu>;
using ReGlu = GatedUnit<Activation::relu>;
/// What the published code computes without `swiglu`.
using Gelu = PlainUnit<Activation::gelu_erf>;
using SquaredRelu = PlainUnit<Activation::relu_squared>;

/// A policy for the inside of an expert.
template <class E>
concept Expert = requires {
  { E::gated } -> std::convertible_to<bool>;
  { E::activation } -> std::convertible_to<Activation>;
};

/// Rows of fc1 for a hidden width.
template <Expert E>
constexpr Index fc1_rows(Index d_ffn) {
  return E::gated ? 2 * d_ffn : d_ffn;
}

}  // namespace blackmamba
