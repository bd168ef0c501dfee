#pragma once
/// \file
/// The decay matrix on a GPU.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/decay/decay.hpp>

namespace blackmamba {

namespace detail {

template <class T>
struct DecayMap : ElementMap<DecayMap<T>> {
  __device__ void operator()(T A_log, accumulator_t<T>& A) const { A = -::exp(device_widen(A_log)); }
};

}  // namespace detail

template <Scalar T>
void decay_on(Cuda const& ctx, DecayArgs<T> const& args) {
  detail::map_matrices(ctx, "decay", args.A.shape(), detail::DecayMap<T>{}, args.A_log, args.A);
}

}  // namespace blackmamba
