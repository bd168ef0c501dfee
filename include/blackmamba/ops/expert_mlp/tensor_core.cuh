#pragma once
/// \file
/// What the products of all experts share on the tensor cores of compute capability 9.0a.
///
/// A block stays on its multiprocessor and takes one tile of 128 × 256 after the other. One warp of it asks the copy engine for
/// tiles of the operands, some steps of 64 ahead; two groups of four warps each multiply 64 rows by 256 columns, 128 sums a thread.

#include <cstring>

#include <blackmamba/core/cuda/tma.cuh>
#include <blackmamba/core/cuda/wgmma.cuh>
#include <blackmamba/ops/expert_mlp/groups.cuh>
#include <blackmamba/ops/expert_mlp/pieces.cuh>

namespace blackmamba::detail {

struct TensorTuning {
  static constexpr int rows = 128, columns = 256, depth = 64;
  static constexpr unsigned left_bytes = rows * depth * 2, right_bytes = columns * depth * 2;
  static constexpr unsigned stage_bytes = left_bytes + right_bytes;
  static constexpr unsigned box_bytes = 64 * 64 * 2;  ///< of a turned operand
};

/// Which tile comes next. Without a counter a block takes every n-th; with one, which is 0 before the launch, the next that no
/// block has taken, so that none waits for another at the end. What is computed does not depend on who does it.
struct TileTurns {
  unsigned* counter = nullptr;
};

#if defined(__CUDACC__)

/// Where a block keeps its tiles and what it waits for. `Note` says what a tile is; its `expert` is negative where there are no
/// more.
template <int Stages, class Note>
struct Pipeline {
  static constexpr unsigned bytes = Stages * TensorTuning::stage_bytes;
  /// The barriers, and with each stage the tile that begins there.
  struct Shared {
    unsigned long long full[Stages], empty[Stages];
    Note notes[Stages];
  };

  std::uint32_t tiles, full, empty;  ///< addresses; barriers are 8 bytes apart
  Shared* shared;
  int stage = 0;
  unsigned parity = 0;

  /// By all threads of a block. `memory` has `bytes` from its first multiple of 1024 on.
  __device__ Pipeline(unsigned char* memory, Shared& barriers) : shared{&barriers} {
    tiles = (static_cast<std::uint32_t>(__cvta_generic_to_shared(memory)) + 1023) & ~1023u;
    full = static_cast<std::uint32_t>(__cvta_generic_to_shared(barriers.full));
    empty = static_cast<std::uint32_t>(__cvta_generic_to_shared(barriers.empty));
    if (threadIdx.x == 0) {
      for (unsigned i = 0; i < Stages; ++i) {
        barrier_init(full + 8 * i, 1);
        barrier_init(empty + 8 * i, 8);  // warps that read a stage
      }
    }
  }

  __device__ void next() {
    if (++stage == Stages) stage = 0, parity ^= 1;
  }
  __device__ std::uint32_t left() const { return tiles + static_cast<unsigned>(stage) * TensorTuning::stage_bytes; }
  __device__ std::uint32_t right() const { return left() + TensorTuning::left_bytes; }
  __device__ std::uint32_t full_here() const { return full + 8 * static_cast<unsigned>(stage); }
  __device__ std::uint32_t empty_here() const { return empty + 8 * static_cast<unsigned>(stage); }

  /// By the thread that fills stages: waits for this one to be free.
  __device__ void wait_empty() const { barrier_wait(empty_here(), parity ^ 1); }
  /// By the same: says that there are no more tiles.
  __device__ void finish() const {
    wait_empty();
    shared->notes[stage].expert = -1;
    barrier_arrive(full_here());
  }
  /// By warps that read: the tile that begins with this stage. The lane that will say that the stage was read reads it for all.
  __device__ Note wait_note() const {
    static_assert(sizeof(Note) % 4 == 0);
    barrier_wait(full_here(), parity);
    std::uint32_t words[sizeof(Note) / 4]{};
    if (threadIdx.x % 32 == 0) std::memcpy(words, &shared->notes[stage], sizeof(Note));
#pragma unroll
    for (std::uint32_t& word : words) word = __shfl_sync(~0u, word, 0);
    Note out;
    std::memcpy(&out, words, sizeof(Note));
    return out;
  }
};

/// By the thread that fills stages.
class TileNumbers {
 public:
  __device__ explicit TileNumbers(TileTurns const& turns) : counter_{turns.counter}, next_{static_cast<int>(blockIdx.x)} {}
  /// The next number; the one after it is asked for meanwhile.
  __device__ int take() {
    int const here = next_;
    next_ = static_cast<int>(gridDim.x) + (counter_ ? static_cast<int>(atomicAdd(counter_, 1u)) : here);
    return here;
  }

 private:
  unsigned* counter_;
  int next_;
};

template <int Id>
__device__ void group_sync() {
  asm volatile("bar.sync %0, 256;" ::"n"(Id) : "memory");
}

/// Rows of a turned tile past the last that counts, as zeros: of this group's 64 columns of the left operand and of half of the
/// right.
template <class Stages>
__device__ void clear_rows(Stages const& p, int group, int boxes, int count) {
  int const pieces = (TensorTuning::depth - count) * 8;
  for (int i = static_cast<int>(threadIdx.x) % 128; i < pieces; i += 128) {
    unsigned const at = static_cast<unsigned>(count * 128 + i * 16);
    store_shared(p.left() + static_cast<unsigned>(group) * TensorTuning::box_bytes + at, float4{0, 0, 0, 0});
    for (int box = group; box < boxes; box += 2)
      store_shared(p.right() + static_cast<unsigned>(box) * TensorTuning::box_bytes + at, float4{0, 0, 0, 0});
  }
  publish_to_engines();
  group_sync<1>();
}

/// The columns that a tile's products have.
enum class TileColumns {
  all,     ///< 256
  halves,  ///< 256 by two products each, for kernels that begin with fewer registers than one of 256 columns needs
  narrow,  ///< 128
};

/// The sums of a tile over `depth` in steps of 64. Where both operands are turned, rows past `depth` count as zero.
template <class T, bool TurnedLeft, bool TurnedRight, TileColumns Columns, class Stages>
__device__ void sum_tile(float (&sums)[128], Stages& p, int group, Index depth) {
  constexpr unsigned left_step = TurnedLeft ? 2048 : 32, right_step = TurnedRight ? 2048 : 32;
  int const steps = static_cast<int>((depth + TensorTuning::depth - 1) / TensorTuning::depth);
  bool const leads = static_cast<int>(threadIdx.x) % 32 == 0;
  std::uint32_t before = 0;
  wgmma_hold(sums);
  for (int k = 0; k < steps; ++k) {
    barrier_wait(p.full_here(), p.parity);
    if constexpr (TurnedLeft && TurnedRight)
      if (k + 1 == steps && depth % TensorTuning::depth != 0)
        clear_rows(p, group, Columns == TileColumns::narrow ? 2 : 4, static_cast<int>(depth % TensorTuning::depth));
    std::uint64_t const left = tile_descriptor(p.left() + static_cast<unsigned>(group) * TensorTuning::box_bytes),
                        right = tile_descriptor(p.right(), TurnedRight ? TensorTuning::box_bytes : 16);
    wgmma_begin();
#pragma unroll
    for (unsigned i = 0; i < TensorTuning::depth / 16; ++i) {
      std::uint64_t const a = left + (i * left_step >> 4), b = right + (i * right_step >> 4);
      bool const add = k > 0 || i > 0;
      if constexpr (Columns == TileColumns::all)
        wgmma_256<T, TurnedLeft, TurnedRight>(sums, a, b, add);
      else
        wgmma_128<T, TurnedLeft, TurnedRight>(sums, a, b, add);
      if constexpr (Columns == TileColumns::halves)
        wgmma_128<T, TurnedLeft, TurnedRight, 1>(sums, a, b + (TensorTuning::right_bytes / 2 >> 4), add);
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (k > 0 && leads) barrier_arrive(before);
    before = p.empty_here();
    p.next();
  }
  wgmma_wait<0>();
  wgmma_hold(sums);
  if (leads) barrier_arrive(before);
}

/// The stages of a tile in which a group has no rows.
template <class Stages>
__device__ void pass_tile(Stages& p, int depth) {
  for (int k = 0; k < depth; k += TensorTuning::depth, p.next()) {
    barrier_wait(p.full_here(), p.parity);
    __syncwarp();
    if (static_cast<int>(threadIdx.x) % 32 == 0) barrier_arrive(p.empty_here());
  }
}

#endif

}  // namespace blackmamba::detail
