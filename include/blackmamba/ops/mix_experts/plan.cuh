#pragma once
/// \file
/// Which tokens an expert has, found by every block for itself: with few assignments that takes less than a kernel of its own.

#include <blackmamba/core/cuda/fault.cuh>
#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

/// Assignments by expert, in the order in which `dispatch` has them, in shared memory. `Most` is how many there can be.
template <int Most>
struct MixPlan {
  int expert[Most];                            ///< of assignment i; -1: none
  int order[Most];                             ///< the assignment at each place
  int of_group[Most], begin[Most], end[Most];  ///< expert, first place and place after the last of each expert that has any
  bool first[Most];                            ///< whether assignment i is the first of its expert
  float weight[Most];                          ///< of assignment i, where it was asked for

  /// By all threads of a block, of which there are at least `Most`; returns how many experts have assignments, a barrier behind it.
  /// An expert outside of those there are counts as none, and is told where there is a slot for it. `weights` may be absent.
  __device__ int build(View<int const, 2> const& experts, int E, View<float const, 2> const& weights, FaultSlot* slot) {
    int const i = static_cast<int>(threadIdx.x), k = static_cast<int>(experts.extent(1)), count = static_cast<int>(experts.size());
    int mine = -1;
    if (i < count) {
      mine = experts(i / k, i % k);
      if (mine < -1 || mine >= E) {
        if (slot) report_fault(slot, i, mine);
        mine = -1;
      }
      expert[i] = mine;
      weight[i] = weights && mine >= 0 ? weights(i / k, i % k) : 0.0f;
    }
    __syncthreads();
    int place = 0, same = 0, same_before = 0;
    if (mine >= 0) {
#pragma unroll 4
      for (int j = 0; j < count; ++j) {
        int const other = expert[j];
        bool const equal = other == mine, before = j < i;
        same += equal, same_before += equal && before;
        place += other >= 0 && other < mine;
      }
      order[place + same_before] = i;
    }
    bool const leads = mine >= 0 && same_before == 0;
    if (i < count) first[i] = leads;
    int const groups = __syncthreads_count(leads);
    if (leads) {
      int group = 0;
#pragma unroll 4
      for (int j = 0; j < count; ++j) group += first[j] && expert[j] < mine;
      of_group[group] = mine, begin[group] = place, end[group] = place + same;
    }
    __syncthreads();
    return groups;
  }
};

}  // namespace blackmamba::detail
