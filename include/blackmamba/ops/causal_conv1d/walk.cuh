#pragma once
/// \file
/// How the times of a convolution are dealt to warps, and how their rows reach them.

#include <algorithm>
#include <cstring>

#include <blackmamba/core/cuda/fours.cuh>

namespace blackmamba::detail {

/// Measured choices: docs/benchmarks/causal_conv1d.md has the measurements.
struct ConvTuning {
  static constexpr int taps = 4;                                             ///< of the fast kernels, what networks have
  static constexpr int threads = 128, lanes = 32, slices = threads / lanes;  ///< of a block: lanes have channels, warps have times
  static constexpr int unit = 8;                                             ///< times that are dealt together
  static constexpr int blocks = 5, backward_blocks = 3;                      ///< of a multiprocessor
  static constexpr int stages = 4, backward_stages = 3;                      ///< groups of rows in shared memory
  static constexpr int waves = 3;                                            ///< of blocks forward; backward one
  /// Rows of a group: as many bytes for every scalar.
  template <class T>
  static constexpr int ahead = 16 / sizeof(T);
};

/// Rows and times as one range of units, dealt evenly to the slices of so many blocks. Fixed by shapes and the device.
struct ConvPlan {
  Index per_row, total;  ///< units
  unsigned each, more;   ///< units of a slice; the first `more` have one more
  dim3 blocks;           ///< (channels, slices)

  ConvPlan(Index rows, Index L, Index channels, Index blocks_in_all) : per_row{ceil_div(L, Index{ConvTuning::unit})} {
    total = rows * per_row;
    Index const across = std::max(ceil_div(channels / 4, Index{ConvTuning::lanes}), Index{1});
    Index const most = std::min(ceil_div(total, Index{ConvTuning::slices}), Index{65535});
    Index const down = std::clamp(blocks_in_all / across, Index{1}, std::max(most, Index{1}));
    blocks = {static_cast<unsigned>(across), static_cast<unsigned>(down)};
    each = static_cast<unsigned>(total / (down * ConvTuning::slices));
    more = static_cast<unsigned>(total % (down * ConvTuning::slices));
  }
  static bool fits(Index rows, Index L) { return rows * ceil_div(L, Index{ConvTuning::unit}) < Index{1} << 28; }
};

/// The times of one slice, one row after another: begin … begin + own - 1 of row b.
class ConvWalk {
 public:
  Index b, begin;
  int own;

  __device__ ConvWalk(ConvPlan const& plan, Index L, unsigned slice)
      : plan_{plan}, L_{L}, at_{slice * plan.each + min(slice, plan.more)}, end_{at_ + plan.each + (slice < plan.more)} {
    b = at_ / static_cast<unsigned>(plan.per_row), first_ = at_ - static_cast<unsigned>(b * plan.per_row);
    set();
  }
  __device__ explicit operator bool() const { return at_ < end_; }
  __device__ void advance() {
    at_ += units_, ++b, first_ = 0;
    set();
  }

 private:
  __device__ void set() {
    units_ = min(static_cast<unsigned>(plan_.per_row) - first_, end_ - at_);
    begin = Index{first_} * ConvTuning::unit;
    own = static_cast<int>(min(L_ - begin, Index{units_} * ConvTuning::unit));
  }

  ConvPlan const& plan_;
  Index L_;
  unsigned at_, end_, first_, units_;
};

/// Whether rows are so near that a few of them are apart by what 32 bits hold.
template <class T>
bool conv_rows_near(View<T, 3> const& view) {
  Index const most = (Index{1} << 31) / (64 * static_cast<Index>(sizeof(T)));
  return view.stride(1) < most && view.stride(1) > -most;
}

/// Four elements of a row, `rows` (not many) further on.
template <class T>
__device__ T* conv_row(T* from, int stride, int rows) {
  using Byte = std::conditional_t<std::is_const_v<T>, char const, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(from) + static_cast<long long>(stride) * rows);
}

/// Stores four elements under a predicate and no branch, which would keep instructions around it apart.
template <class T>
__device__ void store_four_if(bool condition, T* to, Four<T> const& x) {
  std::uint32_t words[sizeof(T)];
  std::memcpy(words, &x, sizeof(x));
  if constexpr (sizeof(T) == 2)
    asm volatile("{.reg .pred p; setp.ne.s32 p, %0, 0; @p st.global.v2.b32 [%1], {%2, %3};}" ::"r"(static_cast<int>(condition)),
                 "l"(to), "r"(words[0]), "r"(words[1])
                 : "memory");
  else
    asm volatile(
        "{.reg .pred p; setp.ne.s32 p, %0, 0; @p st.global.v4.b32 [%1], {%2, %3, %4, %5};}" ::"r"(static_cast<int>(condition)),
        "l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
        : "memory");
}

/// Four elements as they lie in shared memory.
template <class T>
struct alignas(4 * sizeof(T)) ConvSlot {
  std::uint32_t words[sizeof(T)];
};

/// Rows of `Tensors` on their way to a thread through shared memory, group after group: as many bytes are under way as memory
/// needs, whatever the number of registers and warps. A thread reads what it copied itself, so no thread waits for another.
template <class T, int Tensors, int Stages>
class ConvRing {
  static constexpr int threads = ConvTuning::threads, ahead = ConvTuning::ahead<T>;

 public:
  using Memory = ConvSlot<T>[Stages][ahead][Tensors][threads];

  /// `count` rows from each tensor's `from` on; strides are in bytes.
  __device__ ConvRing(Memory& memory, T const* const (&from)[Tensors], int const (&strides)[Tensors], int count)
      : memory_{memory}, left_{count} {
#pragma unroll
    for (int i = 0; i < Tensors; ++i) from_[i] = from[i], strides_[i] = strides[i];
#pragma unroll
    for (int i = 0; i < Stages - 1; ++i) fetch();
  }
  /// Waits for the next group, and starts copying one that will be needed later.
  __device__ void next() {
    wait_copies<Stages - 2>();
    now_ = now_ + 1 == Stages ? 0 : now_ + 1;
    fetch();
  }
  /// What was copied from row i of the group.
  __device__ PackedFour<T> row(int i, int tensor) const {
    return load_packed(reinterpret_cast<T const*>(&memory_[now_][i][tensor][threadIdx.x]));
  }

 private:
  __device__ void fetch() {
    auto const copy = [&](int i) {
#pragma unroll
      for (int k = 0; k < Tensors; ++k)
        copy_async<4 * sizeof(T)>(static_cast<std::uint32_t>(__cvta_generic_to_shared(&memory_[to_][i][k][threadIdx.x])),
                                  conv_row(from_[k], strides_[k], i));
    };
    if (left_ >= ahead) {
#pragma unroll
      for (int i = 0; i < ahead; ++i) copy(i);
    } else {
#pragma unroll 1
      for (int i = 0; i < left_; ++i) copy(i);
    }
    commit_copies();
    left_ -= ahead, to_ = to_ + 1 == Stages ? 0 : to_ + 1;
#pragma unroll
    for (int k = 0; k < Tensors; ++k) from_[k] = conv_row(from_[k], strides_[k], ahead);
  }

  Memory& memory_;
  T const* from_[Tensors];
  int strides_[Tensors], left_, to_ = 0, now_ = Stages - 1;
};

}  // namespace blackmamba::detail
