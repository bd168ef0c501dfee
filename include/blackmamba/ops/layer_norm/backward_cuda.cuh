#pragma once
/// \file
/// The backward pass of LayerNorm on a GPU.

#include <blackmamba/ops/layer_norm/backward.hpp>
#include <blackmamba/ops/layer_norm/launch.cuh>

namespace blackmamba {

/// Fast where D ≤ 6144 is a multiple of 4 and all rows are contiguous and aligned to 4 elements; elsewhere a row is read again for
/// every sum. Sums over rows have an order that depends on the shape and the kind of device: two runs give the same bits.
template <Scalar T>
void layer_norm_backward_on(Cuda const& ctx, LayerNormBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  detail::norm_backward<true>(ctx,
                              detail::NormBackward<T>{a.x, a.weight, a.residual, a.d_y, a.d_residual, a.d_x, a.d_weight, a.d_bias,
                                                      static_cast<Acc>(a.epsilon)},
                              "layer_norm_backward");
}

}  // namespace blackmamba
