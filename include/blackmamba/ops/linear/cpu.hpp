#pragma once
/// \file
/// The linear map on the CPU: few rows stream the weight once, many rows are a matrix product.

#include <blackmamba/ops/linear/product.hpp>
#include <blackmamba/ops/linear/reference.hpp>
#include <blackmamba/ops/linear/stream.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void linear_on(Cpu const& ctx, LinearArgs<T> const& a) {
  bool const fast = a.x.contiguous_rows() && a.weight.contiguous_rows() && a.y.contiguous_rows();
  if (!fast) return linear_on(static_cast<Reference const&>(ctx), a);
  // Packing both operands for the product pays from about this many rows on.
  if (a.x.extent(0) <= 16)
    detail::linear_streamed(ctx, a);
  else
    detail::linear_product(ctx, a);
}

}  // namespace blackmamba
