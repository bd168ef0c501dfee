#pragma once
/// \file
/// Two neighbouring blocks of a launch that run side by side and bring tiles for each other: clusters of two, of compute
/// capability 9.0 on. Block 2 i and block 2 i + 1 are a pair.

#include <blackmamba/core/cuda/tma.cuh>

namespace blackmamba::detail {

#if defined(__CUDACC__)

/// Which of the pair this block is.
__device__ inline int rank_in_pair() { return static_cast<int>(blockIdx.x % 2); }

/// The address that a place in this block's shared memory has in a block of the pair.
__device__ inline std::uint32_t address_in_pair(std::uint32_t address, int rank) {
  std::uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

/// By all threads of both blocks that have not ended: waits for the others. Shared memory and barriers made ready before are
/// ready after, in both.
__device__ inline void pair_sync() { asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory"); }

/// Arrives at a barrier by its address in the pair: says that this thread has read, and shows the other block nothing that it
/// wrote. A release for both blocks would, but is compiled to a fence for the whole device, which waits for all stores on their
/// way.
__device__ inline void barrier_arrive_in_pair(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Stores a number in a block of the pair, beside everything else; a barrier there counts its 4 bytes.
__device__ inline void send_number(std::uint32_t to, int number, std::uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(number), "r"(barrier)
               : "memory");
}

/// As `bring_tile`, to the same place in both blocks, whose barriers at the same place each count all bytes.
__device__ inline void bring_tile_to_pair(CUtensorMap const& map, std::uint32_t barrier, std::uint32_t to, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], "
      "%5;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "h"(static_cast<std::uint16_t>(3))
      : "memory");
}
__device__ inline void bring_tile_to_pair(CUtensorMap const& map, std::uint32_t barrier, std::uint32_t to, int column, int row,
                                          int of) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4, %5}], "
      "[%2], %6;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(of), "h"(static_cast<std::uint16_t>(3))
      : "memory");
}

#endif

}  // namespace blackmamba::detail
