#pragma once
/// \file
/// The backward pass of RMSNorm on a GPU.

#include <blackmamba/ops/layer_norm/launch.cuh>
#include <blackmamba/ops/rms_norm/backward.hpp>

namespace blackmamba {

/// Fast where D ≤ 6144 is a multiple of 4 and all rows are contiguous and aligned to 4 elements; elsewhere a row is read again for
/// every sum. Sums over rows have an order that depends on the shape and the kind of device: two runs give the same bits.
template <Scalar T>
void rms_norm_backward_on(Cuda const& ctx, RmsNormBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  detail::norm_backward<false>(
      ctx,
      detail::NormBackward<T>{a.x, a.weight, a.residual, a.d_y, a.d_residual, a.d_x, a.d_weight, {}, static_cast<Acc>(a.epsilon)},
      "rms_norm_backward");
}

}  // namespace blackmamba
