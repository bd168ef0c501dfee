#pragma once
/// \file
/// Experts that are full, on a GPU.

#include <blackmamba/ops/dispatch/sort_kernel.cuh>
#include <blackmamba/ops/route/capacity.hpp>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind capacity_expert_outside{"limit_capacity", "the expert of assignment ", " is ", ", outside -1 to E - 1"};

}  // namespace detail

/// The ranks are those that `dispatch` sorts by, found the same way. Returns nothing. An expert outside is set to -1, not counted,
/// and told at the next wait.
template <std::derived_from<Cuda> Ctx>
void limit_capacity_on(Ctx const& ctx, LimitCapacityArgs const& a) {
  detail::DeviceScope const device{ctx.device()};
  detail::sort_assignments(ctx, View<int const, 2>{a.experts}, a.n_experts, a.experts, ctx.fault(detail::capacity_expert_outside),
                           detail::SortLimit{a.experts, a.capacity, a.dropped});
}

}  // namespace blackmamba
