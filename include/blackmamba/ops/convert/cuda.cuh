#pragma once
/// \file
/// Conversions on a GPU.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/convert/convert.hpp>

namespace blackmamba {

namespace detail {

template <class From, class To>
struct ConvertMap : ElementMap<ConvertMap<From, To>> {
  __device__ void operator()(From x, To& y) const {
    if constexpr (std::is_same_v<From, To>)
      y = x;
    else
      y = device_round<To>(static_cast<accumulator_t<To>>(device_widen(x)));
  }
};

}  // namespace detail

/// Fast where rows are contiguous and aligned to 16 bytes, or the whole is contiguous.
template <Scalar From, Scalar To>
void convert_on(Cuda const& ctx, ConvertArgs<From, To> const& args) {
  detail::map_matrices(ctx, "convert", args.y.shape(), detail::ConvertMap<From, To>{}, args.x, args.y);
}

}  // namespace blackmamba
