#pragma once
/// \file
/// LayerNorm on a GPU.

#include <blackmamba/ops/layer_norm/launch.cuh>
#include <blackmamba/ops/layer_norm/layer_norm.hpp>

namespace blackmamba {

/// Fast where D ≤ 2048 is a multiple of 4 and all rows are contiguous and aligned to 4 elements; elsewhere a row is read again for
/// every sum. Two runs give the same bits.
template <Scalar T>
void layer_norm_on(Cuda const& ctx, LayerNormArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  detail::norm_forward<true>(ctx, detail::NormForward<T>{a.x, a.weight, a.bias, a.residual, a.y, static_cast<Acc>(a.epsilon)},
                             "layer_norm");
}

}  // namespace blackmamba
