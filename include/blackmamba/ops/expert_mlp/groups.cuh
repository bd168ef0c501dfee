#pragma once
/// \file
/// Which tile of which expert: found on the device, from the offsets that are there.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

inline constexpr FaultKind expert_offset_wrong{"expert_mlp", "offsets[", "] is ",
                                               ", where offsets must rise from 0 to at most the rows of x"};
inline constexpr FaultKind expert_offset_wrong_backward{"expert_mlp_backward", "offsets[", "] is ",
                                                        ", where offsets must rise from 0 to at most the rows of x"};

/// The rows of x by expert. `slot` is where the first kernel of an operation tells that offsets are wrong; the others only do
/// nothing.
struct Groups {
  View<Index const, 1> offsets;
  Index rows;
  FaultSlot* slot = nullptr;

  __host__ __device__ Index experts() const { return offsets.extent(0) - 1; }
};

/// Whether offsets rise from 0 to at most `rows`. By all threads of a block; notes what is wrong where there is a slot.
__device__ inline bool groups_right(Groups const& g) {
  bool wrong = false;
  for (Index i = threadIdx.x; i < g.offsets.extent(0); i += blockDim.x) {
    Index const here = g.offsets[i];
    if (i == 0 ? here != 0 : here < g.offsets[i - 1] || here > g.rows) {
      wrong = true;
      if (g.slot) report_fault(g.slot, i, here);
    }
  }
  return __syncthreads_or(wrong) == 0;
}

/// A tile of the products of all experts: `Rows` by `columns` of the output.
struct GroupTile {
  int expert;
  Index begin, end;  ///< rows of the tile: its first, and where those of the expert end
  int column;        ///< its first column
  bool narrow;       ///< of half the columns
  bool low;          ///< of half the rows
};

/// Walks the tiles of all experts' outputs, (rows of the expert, columns), in the order of their numbers. The tiles of an expert
/// are taken down the rows, 16 at a time, so that those which run together share what they read.
///
/// With `Narrow` and `Low`, where the columns, or the rows of an expert, end within the first half of a tile, the tiles there have
/// half the columns or rows. The smaller ones come last of all, when they fill what the others left of the last round.
///
/// One warp walks together: each lane holds one of 32 experts.
template <int Rows, int Columns, bool Narrow, bool Low>
class GroupWalk {
 public:
  __device__ GroupWalk(Groups const& groups, int columns) : groups_{groups}, lane_{static_cast<int>(threadIdx.x) % 32} {
    int const rest = columns % Columns;
    has_narrow_ = Narrow && rest > 0 && rest <= Columns / 2;
    wide_ = columns / Columns + (rest > 0 && !has_narrow_);
    enter(0);
  }

  /// The tile of this number, which is larger than that of the call before. False past the last.
  __device__ bool find(int number, GroupTile& tile) {
    while (number >= before_ + chunk_) {
      before_ += chunk_;
      if (base_ + 32 < groups_.experts()) {
        enter(base_ + 32);
        continue;
      }
      constexpr int phases = Low ? 4 : Narrow ? 2 : 1;
      if (++phase_ >= phases) {
        chunk_ = 0, --phase_;
        return false;
      }
      enter(0);
    }
    int const in_chunk = number - before_, across = columns_here();
    int const owner = __popc(__ballot_sync(~0u, in_chunk >= last_));
    int const down = __shfl_sync(~0u, down_, owner);
    int const local = in_chunk - (__shfl_sync(~0u, last_, owner) - down * across);
    tile.expert = base_ + owner;
    tile.end = __shfl_sync(~0u, end_, owner);
    Index const begin = __shfl_sync(~0u, begin_, owner);
    constexpr int together = 16;
    int const stripe = local / (together * across), in_stripe = local - stripe * together * across;
    int const height = min(together, down - stripe * together);
    int const column = in_stripe / height;
    tile.narrow = phase_ & 1, tile.low = phase_ & 2;
    tile.begin = begin + Index{Rows} * (stripe * together + in_stripe - column * height);
    tile.column = ((tile.narrow ? wide_ : 0) + column) * Columns;
    return true;
  }

 private:
  __device__ int columns_here() const { return phase_ & 1 ? static_cast<int>(has_narrow_) : wide_; }

  __device__ void enter(int base) {
    base_ = base;
    int const e = base + lane_;
    bool const mine = e < groups_.experts();
    begin_ = mine ? groups_.offsets[e] : 0;
    end_ = mine ? groups_.offsets[e + 1] : 0;
    Index const rows = end_ - begin_;
    if constexpr (Low) {
      Index const whole = (rows + Rows / 2 - 1) / Rows;
      bool const half = rows > whole * Rows;
      down_ = phase_ & 2 ? static_cast<int>(half) : static_cast<int>(whole);
      if (phase_ & 2) begin_ += whole * Rows;
    } else {
      down_ = static_cast<int>((rows + Rows - 1) / Rows);
    }
    last_ = down_ * columns_here();
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      int const other = __shfl_up_sync(~0u, last_, step);
      if (lane_ >= step) last_ += other;
    }
    chunk_ = __shfl_sync(~0u, last_, 31);
  }

  Groups const& groups_;
  int lane_, wide_, phase_ = 0;  // phases: bit 0 for narrow tiles, bit 1 for low ones
  int base_ = 0, before_ = 0, chunk_ = 0;
  int down_ = 0, last_ = 0;  // of this lane's expert: tiles down its rows; tiles of the experts of the chunk up to it
  Index begin_ = 0, end_ = 0;
  bool has_narrow_;
};

/// Tiles that there can be at most, however the rows are spread.
inline Index most_group_tiles(Index rows, Index experts, Index columns, Index tile_rows, Index tile_columns) {
  return (rows / tile_rows + (experts < rows ? experts : rows)) * ceil_div(columns, tile_columns);
}

}  // namespace blackmamba::detail
