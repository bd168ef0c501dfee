#pragma once
/// \file
/// Which kernels of the normalisations, and how many blocks of them.

#include <algorithm>

#include <blackmamba/core/cuda/parts.cuh>
#include <blackmamba/ops/layer_norm/kernel.cuh>

namespace blackmamba::detail {

/// Calls `body` with the fewest fours a lane that a row of D fits in, as a constant; false where it fits in none.
template <class Body>
bool with_fours(Index D, Body const& body) {
  auto const fits = [&](auto fours) {
    if (D > 128 * fours) return false;
    body(fours);
    return true;
  };
  return fits(std::integral_constant<int, 4>{}) || fits(std::integral_constant<int, 9>{}) ||
         fits(std::integral_constant<int, 12>{}) || fits(std::integral_constant<int, 16>{});
}

inline unsigned norm_blocks(Index rows) { return static_cast<unsigned>(ceil_div(rows, Index{NormTuning::warps})); }

template <bool Centred, class T>
void norm_forward(Cuda const& ctx, NormForward<T> const& a, char const* name) {
  Index const rows = a.y.extent(0), D = a.y.extent(1);
  if (rows == 0 || D == 0) return;
  DeviceScope const device{ctx.device()};
  bool fast = false;
  if constexpr (!std::is_same_v<T, double>) {
    fast = (!a.x || fours_align(a.x)) && (!a.residual || fours_align(a.residual)) && fours_align(a.y) && fours_align(a.weight) &&
           (!a.bias || fours_align(a.bias));
    fast = fast && with_fours(D, [&](auto fours) {
             launch_overlapping(ctx, name, &norm_kernel<T, Centred, fours>, norm_blocks(rows), NormTuning::threads, 0, a);
           });
  }
  if (!fast) launch_overlapping(ctx, name, &norm_plain_kernel<T, Centred>, norm_blocks(rows), NormTuning::threads, 0, a);
}

template <bool Centred, class T>
void norm_backward(Cuda const& ctx, NormBackward<T> const& a, char const* name) {
  using Acc = accumulator_t<T>;
  constexpr int threads = NormTuning::threads;
  Index const rows = a.d_y.extent(0), D = a.d_y.extent(1);
  if (rows == 0 || D == 0) return;
  DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  bool const parameters = a.d_weight || a.d_bias;
  if constexpr (!std::is_same_v<T, double>) {
    auto const aligned = [](auto const& view) { return !view || fours_align(view); };
    if (aligned(a.x) && aligned(a.residual) && aligned(a.d_y) && aligned(a.d_residual) && aligned(a.d_x) && aligned(a.weight) &&
        D <= 4 * NormTuning::fours * 32 * NormTuning::most_warps) {
      Index const block = ceil_div(D / 4, Index{32 * NormTuning::fours}) * 32;
      // As many as run at once.
      int at_once = 0;
      check_cuda(
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, norm_backward_kernel<T, Centred>, static_cast<int>(block), 0),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
      Index const blocks = std::min(rows, Index{std::max(1, at_once)} * ctx.multiprocessors());
      View<float, 3> parts;
      if (parameters) parts = ctx.scratch().template take<float>(Shape<3>{blocks, Centred ? 2 : 1, D});
      norm_backward_kernel<T, Centred><<<static_cast<unsigned>(blocks), static_cast<unsigned>(block), 0, ctx.stream()>>>(a, parts);
      check_launch(name);
      View<float, 2> const weights =
          a.d_weight ? View<float, 2>{a.d_weight.data(), Shape<2>{1, D}, Shape<2>{0, a.d_weight.stride(0)}} : View<float, 2>{};
      if (parameters) add_parts(ctx, parts, Centred ? weights : View<float, 2>{}, Centred ? a.d_bias : a.d_weight);
      return;
    }
  }
  auto* const scales = ctx.scratch().template take<NormScale<Acc>>(Shape<1>{rows}).data();
  norm_scales_kernel<T, Centred><<<norm_blocks(rows), threads, 0, ctx.stream()>>>(a, scales);
  if (parameters)
    norm_parameters_plain_kernel<T><<<static_cast<unsigned>(ceil_div(D, Index{threads})), threads, 0, ctx.stream()>>>(a, scales);
  norm_backward_plain_kernel<T, Centred><<<norm_blocks(rows), threads, 0, ctx.stream()>>>(a, scales);
  check_launch(name);
}

}  // namespace blackmamba::detail
