#pragma once
/// \file
/// Tokens through their experts, by the parts that the CPU has: between them lie only rows that its caches hold.

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/mix_experts/reference.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void mix_experts_on(Cpu const& ctx, MixExpertsArgs<T> const& a) { detail::mix_experts_by_parts(ctx, a); }

}  // namespace blackmamba
