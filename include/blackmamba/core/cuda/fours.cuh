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

/// Elements as they are computed with.
template <class T>
__device__ void widen_four(Four<T> const& from, accumulator_t<T> (&to)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = device_widen(from.of[i]);
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
