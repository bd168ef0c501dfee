#pragma once
/// \file
/// The gradient of the decay matrix on a GPU.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/decay/backward.hpp>

namespace blackmamba {

namespace detail {

template <class T>
struct DecayBackwardMap : ElementMap<DecayBackwardMap<T>> {
  using A = accumulator_t<T>;
  __device__ void operator()(T A_log, A d_A, A before, A& d_A_log) const { d_A_log = before - d_A * ::exp(device_widen(A_log)); }
};

}  // namespace detail

template <Scalar T>
void decay_backward_on(Cuda const& ctx, DecayBackwardArgs<T> const& args) {
  View<accumulator_t<T> const, 2> const before{args.d_A_log};
  detail::map_matrices(ctx, "decay_backward", args.d_A.shape(), detail::DecayBackwardMap<T>{}, args.A_log, args.d_A, before,
                       args.d_A_log);
}

}  // namespace blackmamba
