#pragma once
/// \file
/// The gradient of values given to each channel of a head, on a GPU: a few lanes sum the channels of a head, a block walks rows and
/// keeps its share of d_bias, and the shares are added in their order.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/expand_heads/backward.hpp>

namespace blackmamba {

namespace detail {

/// `group` lanes a head, `heads` of them a block; `parts` (blocks, H) where d_bias is wanted.
template <class T>
__global__ void __launch_bounds__(512, 2)
    expand_heads_backward_kernel(__grid_constant__ ExpandHeadsBackwardArgs<T> const a, int const group, int const heads,
                                 bool const whole, __grid_constant__ View<accumulator_t<T>, 2> const parts) {
  using A = accumulator_t<T>;
  constexpr int V = lanes_of<T>, ahead = 4;
  Index const rows = a.x.extent(0), H = a.x.extent(1), P = a.d_y.extent(1) / H;
  Index const h = Index{blockIdx.y} * heads + static_cast<int>(threadIdx.x) / group;
  int const lane = static_cast<int>(threadIdx.x) % group;
  bool const there = static_cast<int>(threadIdx.x) / group < heads && h < H;
  A const bias = there && a.bias ? device_widen(a.bias[h]) : A(0), low = static_cast<A>(a.low), high = static_cast<A>(a.high);
  auto const load = [&](Index row, Index p) {
    int const count = p + V <= P ? V : static_cast<int>(P - p);
    return load_lanes<V>(&a.d_y(row, h * P + p), a.d_y.stride(1), whole, count);
  };
  auto const sum_of = [](PackedLanes<T, V> const& packed) {
    Lanes<T, V> const x = packed.lanes();
    A sum = 0;
#pragma unroll
    for (int k = 0; k < V; ++k) sum += device_widen(x.of[k]);
    return sum;
  };
  A d_bias = 0;
  for (Index first = blockIdx.x; first < rows; first += Index{ahead} * gridDim.x) {
    PackedLanes<T, V> d_y[ahead]{};
    T x[ahead]{};
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      Index const row = first + u * Index{gridDim.x};
      if (row >= rows || !there) continue;
      if (lane * V < P) d_y[u] = load(row, lane * V);
      x[u] = a.x(row, h);
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      Index const row = first + u * Index{gridDim.x};
      if (row >= rows) break;
      A sum = sum_of(d_y[u]);
      for (Index p = Index{lane + group} * V; there && p < P; p += Index{group} * V) sum += sum_of(load(row, p));
      for (int mask = group / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
      A const before = device_widen(x[u]) + bias;
      A slope = a.softplus ? device_sigmoid(before) : A(1);
      if (a.low < a.high) {
        A const value = a.softplus ? device_softplus(before) : before;
        if (value < low || high < value) slope = 0;
      }
      sum *= slope, d_bias += sum;
      if (a.d_x && there && lane == 0) a.d_x(row, h) = device_round<T>(sum);
    }
  }
  if (parts && there && lane == 0) parts(blockIdx.x, h) = d_bias;
}

/// to[i] += the sum of parts(·, i): a warp a column.
template <class A>
__global__ void __launch_bounds__(32)
    add_columns_kernel(__grid_constant__ View<A const, 2> const parts, __grid_constant__ View<A, 1> const to) {
  for (Index i = blockIdx.x; i < to.extent(0); i += gridDim.x) {
    A sum = 0;
#pragma unroll 4
    for (Index part = threadIdx.x; part < parts.extent(0); part += 32) sum += parts(part, i);
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
    if (threadIdx.x == 0) to[i] += sum;
  }
}

}  // namespace detail

/// Fast where rows of d_y are contiguous and aligned to 16 bytes and 16 bytes divide a head's. Two runs give the same bits.
template <Scalar T>
void expand_heads_backward_on(Cuda const& ctx, ExpandHeadsBackwardArgs<T> const& args) {
  using A = accumulator_t<T>;
  constexpr int V = detail::lanes_of<T>;
  Index const rows = args.x.extent(0), H = args.x.extent(1), P = args.d_y.extent(1) / H;
  if (rows == 0 || (!args.d_x && !args.d_bias)) return;
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  int group = 1;
  while (group < 32 && group * V < P) group *= 2;
  auto const heads = static_cast<int>(std::min(H, Index{512 / group}));
  auto const threads = static_cast<unsigned>(ceil_div(Index{heads} * group, Index{32}) * 32);
  Index const columns = ceil_div(H, Index{heads});
  if (columns > 65535)
    throw error(concat("expand_heads_backward: ", H, " heads, and a GPU takes at most ", Index{65535} * heads, " of ", P));
  Index const blocks = std::min(rows, std::max(Index{1}, Index{ctx.multiprocessors()} * (1024 / threads) / columns));
  View<A, 2> parts{};
  if (args.d_bias) parts = ctx.scratch().template take<A>(Shape<2>{blocks, H});
  bool const whole = P % V == 0 && detail::lanes_align<V>(args.d_y);
  detail::expand_heads_backward_kernel<T>
      <<<dim3{static_cast<unsigned>(blocks), static_cast<unsigned>(columns)}, threads, 0, ctx.stream()>>>(args, group, heads, whole,
                                                                                                          parts);
  detail::check_launch("expand_heads_backward_kernel");
  if (!args.d_bias) return;
  detail::add_columns_kernel<A><<<static_cast<unsigned>(std::min(H, Index{1} << 20)), 32, 0, ctx.stream()>>>(parts, args.d_bias);
  detail::check_launch("add_columns_kernel");
}

}  // namespace blackmamba
