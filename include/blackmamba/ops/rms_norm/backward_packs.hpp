#pragma once
/// \file
/// What the backward passes of the norms share on the CPU: rows by packs, and sums over rows in fixed pieces.

#include <algorithm>

#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/simd.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

/// One pack of a row: where it begins, and how to read and write it.
struct WholePack {
  Index at;
  template <class T>
  auto load(T const* row) const {
    return simd::load(row + at);
  }
  template <class T>
  void store(T* row, simd::pack<accumulator_t<T>> x) const {
    simd::store(row + at, x);
  }
  /// The pack with zeros past the end of the row.
  template <class V>
  V clear(V x) const {
    return x;
  }
};

/// The end of a row, shorter than a pack; what lies past it reads as zero and is not written.
struct PartPack {
  Index at, count;
  template <class T>
  auto load(T const* row) const {
    return simd::load_part(row + at, count);
  }
  template <class T>
  void store(T* row, simd::pack<accumulator_t<T>> x) const {
    simd::store_part(row + at, x, count);
  }
  template <class V>
  V clear(V x) const {
    for (Index i = count; i < static_cast<Index>(sizeof(V) / sizeof(x[0])); ++i) x[i] = 0;
    return x;
  }
};

/// Calls `body(pack)` for the packs of a row of D elements of the accumulator A.
template <class A, class Body>
inline void for_packs(Index D, Body&& body) {
  constexpr Index W = simd::width<A>;
  Index i = 0;
  for (; i + W <= D; i += W) body(WholePack{i});
  if (i < D) body(PartPack{i, D - i});
}

/// How rows of D elements are cut into pieces, each of which sums over its rows by itself: by the shape alone, 64 pieces at most.
struct RowPieces {
  Index rows, rows_per_piece, count;
  RowPieces(Index all_rows, Index D)
      : rows{all_rows},
        rows_per_piece{std::max<Index>(1 + (1 << 14) / (D + 1), ceil_div(all_rows, 64))},
        count{ceil_div(all_rows, rows_per_piece)} {}
  Index begin(Index piece) const { return piece * rows_per_piece; }
  Index end(Index piece) const { return std::min(rows, begin(piece) + rows_per_piece); }
};

/// to_i += the sums that the pieces made, in their order.
template <class A>
void add_pieces(View<A, 2> const& sums, View<A, 1> const& to) {
  for (Index piece = 0; piece < sums.extent(0); ++piece)
    for (Index i = 0; i < to.extent(0); ++i) to(i) += sums(piece, i);
}

}  // namespace blackmamba::detail
