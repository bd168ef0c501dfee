#pragma once
/// \file
/// The order of a row's elements as whole numbers, and sums over the threads of a block in the order of the threads.

#include <cstdint>

#include <blackmamba/core/cuda/math.cuh>

namespace blackmamba::detail {

/// A number's place in the order of all: a larger one for a larger number, the same for both zeros. Not for NaN.
__device__ inline std::uint32_t ordered(float x) {
  std::uint32_t const bits = __float_as_uint(x + 0.0f);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ inline std::uint64_t ordered(double x) {
  auto const bits = static_cast<std::uint64_t>(__double_as_longlong(x + 0.0));
  return bits ^ (bits >> 63 ? ~std::uint64_t{0} : std::uint64_t{1} << 63);
}

/// Sums of the threads up to this one, this one included, and of all of them. All threads of the block call it; `shared` holds an
/// element for each of 32 warps.
template <class X>
__device__ X scan_block(X x, X* shared, X& total) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int const warps = static_cast<int>(blockDim.x) / 32;
  for (int step = 1; step < 32; step *= 2) {
    X const before = __shfl_up_sync(~0u, x, step);
    if (lane >= step) x += before;
  }
  __syncthreads();  // what an earlier call left has been read
  if (lane == 31) shared[warp] = x;
  __syncthreads();
  if (warp == 0) {
    X sum = lane < warps ? shared[lane] : X{0};
    for (int step = 1; step < 32; step *= 2) {
      X const before = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += before;
    }
    shared[lane] = sum;
  }
  __syncthreads();
  total = shared[warps - 1];
  return warp > 0 ? x + shared[warp - 1] : x;
}

}  // namespace blackmamba::detail
