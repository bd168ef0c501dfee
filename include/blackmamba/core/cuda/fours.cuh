#pragma once
/// \file
/// Four neighbouring elements, read and written in one access.

#include <cstdint>

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Four {
  T of[4];
};

/// Whether the last dimension can be read four at a time.
template <class T, int Rank>
bool fours_align(View<T, Rank> const& view) {
  bool aligns = view.stride(Rank - 1) == 1 && view.extent(Rank - 1) % 4 == 0 &&
                reinterpret_cast<std::uintptr_t>(view.data()) % alignof(Four<T>) == 0;
  for (int i = 0; i < Rank - 1; ++i) aligns = aligns && (view.extent(i) == 1 || view.stride(i) % 4 == 0);
  return aligns;
}

/// Four elements in the registers that one load fills: not told apart before they are used.
template <class T>
struct PackedFour {
  std::uint32_t words[sizeof(T)];
};
template <class T>
__device__ PackedFour<std::remove_const_t<T>> load_packed(T* from) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4);
  PackedFour<std::remove_const_t<T>> out;
  if constexpr (sizeof(T) == 2) {
    auto const two = *reinterpret_cast<uint2 const*>(from);
    out.words[0] = two.x, out.words[1] = two.y;
  } else {
    auto const four = *reinterpret_cast<uint4 const*>(from);
    out.words[0] = four.x, out.words[1] = four.y, out.words[2] = four.z, out.words[3] = four.w;
  }
  return out;
}
template <class T>
__device__ void widen_four(PackedFour<T> const& from, float (&to)[4]) {
  if constexpr (sizeof(T) == 2) {
    float2 const low = StoredPair<T>{from.words[0]}.widen(), high = StoredPair<T>{from.words[1]}.widen();
    to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = __uint_as_float(from.words[i]);
  }
}

template <class T>
__device__ Four<T> round_four(accumulator_t<T> const (&from)[4]) {
  Four<T> to;
#pragma unroll
  for (int i = 0; i < 4; ++i) to.of[i] = device_round<T>(from[i]);
  return to;
}
template <class T>
__device__ Four<std::remove_const_t<T>> load_four(T* from) {
  return *reinterpret_cast<Four<std::remove_const_t<T>> const*>(from);
}
template <class T>
__device__ void store_four(T* to, Four<T> const& x) {
  *reinterpret_cast<Four<T>*>(to) = x;
}

}  // namespace blackmamba::detail
