#pragma once
/// \file
/// The sum of two tensors on a GPU.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/add/add.hpp>

namespace blackmamba {

namespace detail {

template <class T>
struct AddMap : ElementMap<AddMap<T>> {
  __device__ void operator()(T a, T b, T& y) const { y = device_round<T>(device_widen(a) + device_widen(b)); }
};

}  // namespace detail

/// Fast where rows are contiguous and aligned to 16 bytes, or the whole is contiguous.
template <Scalar T>
void add_on(Cuda const& ctx, AddArgs<T> const& args) {
  detail::map_matrices(ctx, "add", args.y.shape(), detail::AddMap<T>{}, args.a, args.b, args.y);
}

}  // namespace blackmamba
