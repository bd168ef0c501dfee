#pragma once
/// \file
/// Row lookup on a GPU.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/embedding/embedding.hpp>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind token_outside{"embedding", "token ", " is ", ", outside the vocabulary"};

/// Bits of a scalar's size: all scalars of a size share a kernel.
template <int Bytes>
using StoredBits = std::conditional_t<Bytes == 2, std::uint16_t, std::conditional_t<Bytes == 4, std::uint32_t, std::uint64_t>>;

template <class Bits>
__global__ void __launch_bounds__(MapPlan::threads)
    embedding_kernel(__grid_constant__ View<Token const, 1> const tokens, __grid_constant__ Strided<Bits const> const weight,
                     __grid_constant__ Strided<Bits> const y, Index const V, __grid_constant__ MapPlan const plan,
                     FaultSlot* fault) {
  constexpr int lanes = lanes_of<Bits>;
  plan.each<lanes>([&](Index row, Index column, int count) {
    Token const token = tokens[row];
    bool const there = token >= 0 && token < V;
    if (!there && column == 0) report_fault(fault, row, token);
    PackedLanes<Bits, lanes> x{};
    if (there) x = load_lanes<lanes>(weight.at(token, column), weight.column, plan.whole, count);
    store_lanes<lanes>(y.at(row, column), y.column, plan.whole, count, x);
  });
}

}  // namespace detail

/// Fast where rows of weight and y are contiguous and aligned to 16 bytes. A token outside the vocabulary makes the next wait for
/// the context throw, and its row of y zeros; the other rows are as they should be. The kernel waits for all that is queued before:
/// a model's step relies on that (AtRest).
template <Scalar T>
void embedding_on(Cuda const& ctx, EmbeddingArgs<T> const& a) {
  using Bits = detail::StoredBits<sizeof(T)>;
  constexpr int lanes = detail::lanes_of<T>;
  Index const n = a.y.extent(0), D = a.y.extent(1);
  if (n == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::MapPlan const plan{n, D, lanes, detail::lanes_align<lanes>(a.weight) && detail::lanes_align<lanes>(a.y)};
  detail::embedding_kernel<Bits><<<plan.blocks, detail::MapPlan::threads, 0, ctx.stream()>>>(
      a.tokens, detail::Strided<Bits const>{reinterpret_cast<Bits const*>(a.weight.data()), a.weight.stride(0), a.weight.stride(1)},
      detail::Strided<Bits>{reinterpret_cast<Bits*>(a.y.data()), a.y.stride(0), a.y.stride(1)}, a.weight.extent(0), plan,
      ctx.fault(detail::token_outside));
  detail::check_launch("embedding_kernel");
}

}  // namespace blackmamba
