#pragma once
/// \file
/// Activations and gated units on packs, pieces of rows over threads.

#include <blackmamba/ops/activation/activation.hpp>
#include <blackmamba/ops/activation/packs.hpp>

namespace blackmamba {

namespace detail {

/// Calls `body(r, begin, end)` for pieces of the elements of each row. Where all the views are contiguous the matrix is one row, so
/// that narrow matrices keep their packs full.
template <class Body>
void parallel_elements(int threads, Shape<2> shape, bool one_row, Body&& body) {
  constexpr Index grain = 1 << 13;
  Index const rows = one_row ? 1 : shape[0], D = one_row ? shape[0] * shape[1] : shape[1];
  Index const pieces = ceil_div(D, grain);
  parallel_for(threads, rows * pieces, [&](Index piece) {
    Index const r = piece / pieces, begin = piece % pieces * grain;
    body(r, begin, begin + grain < D ? begin + grain : D);
  });
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void activation_on(Cpu const& ctx, ActivationArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;
  if (!a.x.contiguous_rows() || !a.y.contiguous_rows()) return activation_on(static_cast<Reference const&>(ctx), a);

  detail::with_pack_activation<A>(a.kind, [&](auto f) {
    bool const one_row = a.x.contiguous() && a.y.contiguous();
    detail::parallel_elements(ctx.threads(), a.y.shape(), one_row, [&](Index r, Index begin, Index end) {
      T const* const x = &a.x(r, 0);
      T* const y = &a.y(r, 0);
      Index i = begin;
      for (; i + W <= end; i += W) simd::store(y + i, f(simd::load(x + i)));
      if (i < end) simd::store_part(y + i, f(simd::load_part(x + i, end - i)), end - i);
    });
  });
}

template <Scalar T>
requires simd::supported<T>
void gated_unit_on(Cpu const& ctx, GatedUnitArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;
  if (!a.gate.contiguous_rows() || !a.value.contiguous_rows() || !a.y.contiguous_rows())
    return gated_unit_on(static_cast<Reference const&>(ctx), a);

  detail::with_pack_activation<A>(a.kind, [&](auto f) {
    bool const one_row = a.gate.contiguous() && a.value.contiguous() && a.y.contiguous();
    detail::parallel_elements(ctx.threads(), a.y.shape(), one_row, [&](Index r, Index begin, Index end) {
      T const* const gate = &a.gate(r, 0);
      T const* const value = &a.value(r, 0);
      T* const y = &a.y(r, 0);
      Index i = begin;
      for (; i + W <= end; i += W) simd::store(y + i, f(simd::load(gate + i)) * simd::load(value + i));
      if (Index const rest = end - i; rest > 0)
        simd::store_part(y + i, f(simd::load_part(gate + i, rest)) * simd::load_part(value + i, rest), rest);
    });
  });
}

}  // namespace blackmamba
