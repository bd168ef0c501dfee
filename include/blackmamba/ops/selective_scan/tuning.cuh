#pragma once
/// \file
/// Measured choices of the selective scan on a GPU: docs/benchmarks/selective_scan.md has the measurements.

#include <blackmamba/core/config.hpp>

namespace blackmamba::detail {

struct ScanTuning {
  static constexpr int threads = 128;                               ///< of a block: 4 warps, one for each scheduler
  static constexpr int lanes_per_channel = 4;                       ///< each has 4 of the 16 states
  static constexpr int most_states = 16;                            ///< beyond, the plain kernel
  static constexpr int channels = threads / lanes_per_channel * 2;  ///< of a block: a thread has two
  static constexpr int group = 8;                                   ///< time steps between exchanges inside a warp
  static constexpr int stage = 32;                                  ///< time steps of B and C that are in shared memory at once
  static constexpr int blocks_per_multiprocessor = 4;

  /// A sequence is split over time only where there is less than a tile for each multiprocessor, or nearly two, which one block
  /// each would have to do; into pieces no shorter than `shortest_chunk`: below that, a second kernel and carrying states cost more
  /// than they gain.
  static constexpr double nearly_two = 1.8;
  static constexpr Index shortest_chunk = 128;
  /// Time of a step that leaves only the state, over that of a whole step.
  static constexpr double local_cost = 0.72;
};

}  // namespace blackmamba::detail
