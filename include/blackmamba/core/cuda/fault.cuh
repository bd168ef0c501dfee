#pragma once
/// \file
/// What a kernel finds wrong in its data. It cannot throw: it notes the first place, and the next wait for the context throws.

#include <limits>

#include <blackmamba/core/shape.hpp>

namespace blackmamba::detail {

/// A fault as it will be worded: "embedding: token 17 is 50281, outside the vocabulary" is
/// {"embedding", "token ", " is ", ", outside the vocabulary"}. Where the value says nothing, `is` is empty and
/// `rest` goes on after the position. One object of static lifetime a fault.
struct FaultKind {
  char const* op;
  char const* place;
  char const* is;
  char const* rest;
};

/// The first place at which a kind was found, and the value there; what no place and value give: nothing was found.
using FaultSlot = unsigned long long;
inline constexpr FaultSlot no_fault = ~FaultSlot{0};

/// Kinds of fault that one context can tell apart.
inline constexpr int most_faults = 128;

inline Index fault_position(FaultSlot slot) { return static_cast<Index>(slot >> 32); }
inline int fault_value(FaultSlot slot) { return static_cast<int>(static_cast<unsigned>(slot)); }

#if defined(__CUDACC__)
/// Notes a fault, unless one was found at a smaller position: so which one is told does not depend on the order of threads.
/// Positions from 2^32 - 1 on are all told as that one; a value beyond an int as the nearest int.
__device__ inline void report_fault(FaultSlot* slot, Index position, Index value = 0) {
  constexpr Index largest = 0x7fffffff, last = 0xfffffffe;
  auto const shown = static_cast<unsigned>(static_cast<int>(value > largest ? largest : value < -largest ? -largest : value));
  atomicMin(slot, static_cast<FaultSlot>(position < last ? position : last) << 32 | shown);
}
#endif

}  // namespace blackmamba::detail
