#pragma once
/// \file
/// Tokens through their experts, by the reference's parts.

#include <blackmamba/ops/mix_experts/mix_experts.hpp>

namespace blackmamba {

template <Scalar T>
void mix_experts_on(Reference const& ctx, MixExpertsArgs<T> const& a) {
  detail::mix_experts_by_parts(ctx, a);
}

}  // namespace blackmamba
