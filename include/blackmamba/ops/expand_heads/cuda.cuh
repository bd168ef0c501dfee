#pragma once
/// \file
/// Values of a head, given to each of its channels, on a GPU.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/expand_heads/expand_heads.hpp>

namespace blackmamba {

namespace detail {

template <class T>
__global__ void __launch_bounds__(MapPlan::threads, 8)
    expand_heads_kernel(__grid_constant__ ExpandHeadsArgs<T> const a, __grid_constant__ MapPlan const plan, Index const P) {
  using A = accumulator_t<T>;
  constexpr int V = lanes_of<T>;
  auto const low = static_cast<A>(a.low), high = static_cast<A>(a.high);
  bool const clamp = a.low < a.high;
  auto const of_head = [&](Index row, Index h) {
    A value = device_widen(a.x(row, h));
    if (a.bias) value += device_widen(a.bias[h]);
    if (a.softplus) value = device_softplus(value);
    if (clamp) value = value < low ? low : value > high ? high : value;
    return device_round<T>(value);
  };
  bool const one_head = P % V == 0, small = a.y.extent(1) <= 0x7fffffff;
  plan.each<V>([&](Index row, Index column, int count) {
    Index h = small ? static_cast<Index>(static_cast<unsigned>(column) / static_cast<unsigned>(P)) : column / P;
    T value = of_head(row, h);
    Lanes<T, V> out;
    if (one_head) {
#pragma unroll
      for (int k = 0; k < V; ++k) out.of[k] = value;
    } else {
      Index left = (h + 1) * P - column;  // of this head
#pragma unroll
      for (int k = 0; k < V; ++k) {
        if (left == 0 && k < count) value = of_head(row, ++h), left = P;
        out.of[k] = value, --left;
      }
    }
    store_lanes<V>(&a.y(row, column), a.y.stride(1), plan.whole, count, out);
  });
}

}  // namespace detail

/// Fast where rows of y are contiguous and aligned to 16 bytes.
template <Scalar T>
void expand_heads_on(Cuda const& ctx, ExpandHeadsArgs<T> const& args) {
  constexpr int V = detail::lanes_of<T>;
  Index const rows = args.y.extent(0), D = args.y.extent(1);
  if (rows == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::MapPlan const plan{rows, D, V, detail::lanes_align<V>(args.y)};
  detail::expand_heads_kernel<T><<<plan.blocks, detail::MapPlan::threads, 0, ctx.stream()>>>(args, plan, D / args.x.extent(1));
  detail::check_launch("expand_heads_kernel");
}

}  // namespace blackmamba
