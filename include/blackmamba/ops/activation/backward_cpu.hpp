#pragma once
/// \file
/// The backward passes of activations and gated units on packs, pieces of rows over threads.

#include <blackmamba/ops/activation/backward_packs.hpp>
#include <blackmamba/ops/activation/backward_reference.hpp>
#include <blackmamba/ops/activation/cpu.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void activation_backward_on(Cpu const& ctx, ActivationBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;
  if (!a.x.contiguous_rows() || !a.d_y.contiguous_rows() || !a.d_x.contiguous_rows())
    return activation_backward_on(static_cast<Reference const&>(ctx), a);

  detail::with_pack_derivative<A>(a.kind, [&](auto f) {
    bool const one_row = a.x.contiguous() && a.d_y.contiguous() && a.d_x.contiguous();
    detail::parallel_elements(ctx.threads(), a.x.shape(), one_row, [&](Index r, Index begin, Index end) {
      T const* const x = &a.x(r, 0);
      T const* const d_y = &a.d_y(r, 0);
      T* const d_x = &a.d_x(r, 0);
      Index i = begin;
      for (; i + W <= end; i += W) simd::store(d_x + i, simd::load(d_y + i) * f(simd::load(x + i)).slope);
      if (Index const rest = end - i; rest > 0)
        simd::store_part(d_x + i, simd::load_part(d_y + i, rest) * f(simd::load_part(x + i, rest)).slope, rest);
    });
  });
}

template <Scalar T>
requires simd::supported<T>
void gated_unit_backward_on(Cpu const& ctx, GatedUnitBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;
  bool const fast = a.gate.contiguous_rows() && a.value.contiguous_rows() && a.d_y.contiguous_rows() &&
                    (!a.d_gate || a.d_gate.contiguous_rows()) && (!a.d_value || a.d_value.contiguous_rows());
  if (!fast) return gated_unit_backward_on(static_cast<Reference const&>(ctx), a);

  detail::with_pack_derivative<A>(a.kind, [&](auto f) {
    bool const one_row = a.gate.contiguous() && a.value.contiguous() && a.d_y.contiguous() &&
                         (!a.d_gate || a.d_gate.contiguous()) && (!a.d_value || a.d_value.contiguous());
    detail::parallel_elements(ctx.threads(), a.gate.shape(), one_row, [&](Index r, Index begin, Index end) {
      T const* const gate = &a.gate(r, 0);
      T const* const value = &a.value(r, 0);
      T const* const d_y = &a.d_y(r, 0);
      T* const d_gate = a.d_gate ? &a.d_gate(r, 0) : nullptr;
      T* const d_value = a.d_value ? &a.d_value(r, 0) : nullptr;
      Index i = begin;
      for (; i + W <= end; i += W) {
        auto const both = f(simd::load(gate + i));
        auto const d = simd::load(d_y + i), factor = simd::load(value + i);
        if (d_gate) simd::store(d_gate + i, d * factor * both.slope);
        if (d_value) simd::store(d_value + i, d * both.value);
      }
      if (Index const rest = end - i; rest > 0) {
        auto const both = f(simd::load_part(gate + i, rest));
        auto const d = simd::load_part(d_y + i, rest), factor = simd::load_part(value + i, rest);
        if (d_gate) simd::store_part(d_gate + i, d * factor * both.slope, rest);
        if (d_value) simd::store_part(d_value + i, d * both.value, rest);
      }
    });
  });
}

}  // namespace blackmamba
