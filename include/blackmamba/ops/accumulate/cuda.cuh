#pragma once
/// \file
/// A few numbers added to others on a GPU.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/accumulate/accumulate.hpp>

namespace blackmamba {

namespace detail {

template <class A>
__global__ void accumulate_kernel(__grid_constant__ AccumulateArgs<A> const a) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < a.y.extent(0); i += Index{gridDim.x} * blockDim.x)
    a.y[i] += static_cast<A>(a.scale) * a.x[i];
}

}  // namespace detail

template <Scalar A>
void accumulate_on(Cuda const& ctx, AccumulateArgs<A> const& a) {
  if (a.y.extent(0) == 0) return;
  detail::DeviceScope const device{ctx.device()};
  Index const blocks = std::min(ceil_div(a.y.extent(0), Index{128}), Index{65536});
  detail::accumulate_kernel<A><<<static_cast<unsigned>(blocks), 128, 0, ctx.stream()>>>(a);
  detail::check_launch("accumulate_kernel");
}

}  // namespace blackmamba
