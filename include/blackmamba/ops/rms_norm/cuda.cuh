#pragma once
/// \file
/// RMSNorm on a GPU.

#include <blackmamba/ops/layer_norm/launch.cuh>
#include <blackmamba/ops/rms_norm/rms_norm.hpp>

namespace blackmamba {

/// Fast where D ≤ 2048 is a multiple of 4 and all rows are contiguous and aligned to 4 elements; elsewhere a row is read again for
/// every sum. Two runs give the same bits.
template <Scalar T>
void rms_norm_on(Cuda const& ctx, RmsNormArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  detail::norm_forward<false>(ctx, detail::NormForward<T>{a.x, a.weight, {}, a.residual, a.y, static_cast<Acc>(a.epsilon)},
                              "rms_norm");
}

}  // namespace blackmamba
