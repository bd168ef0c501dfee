#pragma once
/// \file
/// Eight neighbouring elements of a row, as the tensor cores leave them and as memory has them.

#include <cstdint>

#include <blackmamba/core/cuda/math.cuh>

namespace blackmamba::detail {

/// Two floats rounded to T, the first in the low half.
template <class T>
__device__ std::uint32_t round_pair(float first, float second) {
  std::uint32_t both;
  if constexpr (std::is_same_v<T, half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}

/// Eight elements of 2 bytes.
struct Piece {
  std::uint32_t words[4];
};
__device__ inline Piece load_piece(void const* from) {
  uint4 const x = *static_cast<uint4 const*>(from);
  return {{x.x, x.y, x.z, x.w}};
}
__device__ inline void store_piece(void* to, Piece const& x) {
  *static_cast<uint4*>(to) = uint4{x.words[0], x.words[1], x.words[2], x.words[3]};
}
template <class T>
__device__ void widen_piece(Piece const& from, float (&to)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 const pair = StoredPair<T>{from.words[i]}.widen();
    to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
  }
}
template <class T>
__device__ Piece round_piece(float const (&from)[8]) {
  Piece to;
#pragma unroll
  for (int i = 0; i < 4; ++i) to.words[i] = round_pair<T>(from[2 * i], from[2 * i + 1]);
  return to;
}

}  // namespace blackmamba::detail
