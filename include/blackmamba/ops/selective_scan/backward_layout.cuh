#pragma once
/// \file
/// How the backward pass of the selective scan is laid out on a GPU: what is measured, what lies in scratch memory, and how time is
/// cut.
///
/// Time is walked in groups of 8 steps. The slots of a row number the groups of its sequences, each of which starts a new one; a
/// segment is a few slots in a row, what one block walks. Before the way back a first kernel walks every segment forward, from a
/// state of zeros, and keeps the state before each group; what a segment does to states and to gradients of states is composed
/// over the segments by a second kernel.

#include <cuda_runtime.h>

#include <blackmamba/ops/selective_scan/backward.hpp>

namespace blackmamba::detail {

/// Measured choices: docs/benchmarks/selective_scan_backward.md has the measurements.
struct ScanBackwardTuning {
  static constexpr int threads = 128;                          ///< of a block: 4 warps, one for each scheduler
  static constexpr int channels = 64;                          ///< of a block: a thread has two, and 4 of their 16 states
  static constexpr int states = 16;                            ///< at most; beyond, the plain kernels
  static constexpr int group = 8;                              ///< steps whose carried states are in registers at once
  static constexpr int blocks_per_multiprocessor = 3;          ///< on the way back: 168 registers
  static constexpr int forward_blocks_per_multiprocessor = 3;  ///< 168 registers
  static constexpr Index waves = 8;                            ///< of blocks, so that the last one is a small part
  static constexpr Index least_groups = 8;                     ///< of a segment
};

struct ScanBackwardLayout {
  int tiles_per_group, tiles;  ///< of 64 channels: of a group of B, of all
  int rows, length;            ///< batch entries, or one of all that is packed; its steps
  int segments, slots;         ///< of a row
  int segment;                 ///< slots of a segment

  float4* kept;         ///< (rows, slots, tiles, 2, threads) the state before each group, of its segment's own making
  float* steps;         ///< (rows, slots, tiles, channels) sum of the step sizes since the segment's beginning
  float4* states;       ///< (rows, segments, tiles, 2, threads) what a segment leaves of zeros; composed: what it starts from
  float4* d_states;     ///< the same of gradients, from the end to the beginning
  float* decays;        ///< (rows, segments, tiles, channels) sum of a segment's step sizes
  float4* d_A;          ///< (rows, segments, tiles, 2, threads) parts of sums over time
  float *d_D, *d_bias;  ///< (rows, segments, tiles, channels) likewise
  float* d_BC;          ///< (tiles, rows, length, 2, states) parts of sums over channels
};

/// What a thread has: 2 channels of the 64 and 4 of their states. Registers hold them in an order of the thread's own: channel
/// c ^ swap() of the pair in register c, state j ^ turn() of the four in register j. So lanes that sum over each other's channels
/// or states send the same registers and keep the same ones, and nothing is selected.
///
/// Which lane has which is chosen for shared memory: it serves half of a warp at a time, instead of a quarter, where each lane
/// reads the same 16 bytes as lane ^ 1 (of B and C), or as lane ^ 2 (of a channel).
struct ScanBackwardPlace {
  /// Lanes whose p or q differs in one bit are these masks apart.
  static constexpr int p0 = 1, p1 = 4, p2 = 8, q0 = 2, q1 = 16;
  int warp, q, p;  ///< the states 4 q …, the channels 2 p … of the warp's 16

  explicit __device__ ScanBackwardPlace(unsigned thread)
      : warp{static_cast<int>(thread) / 32},
        q{static_cast<int>((thread >> 1 & 1) | (thread >> 3 & 2))},
        p{static_cast<int>((thread & 1) | (thread >> 1 & 6))} {}
  /// The lane that has states 4 q … and channels 2 p ….
  static __device__ int lane(int q, int p) { return (p & 1) | (p & 6) << 1 | (q & 1) << 1 | (q & 2) << 3; }
  __device__ int swap() const { return q >> 1; }
  __device__ int turn() const { return p >> 1; }
  __device__ int channel(int c) const { return 2 * p + (c ^ swap()); }  ///< of the warp's
  __device__ int state(int j) const { return 4 * q + (j ^ turn()); }
};

/// The sequences of a row and their slots: sequence s starts at slot begin / 8 + s, so no two share one, and some slots may be
/// empty. Offsets are device memory that the host has not read; whatever they say, nothing outside of the length is touched.
class ScanSlots {
 public:
  int sequence, begin, end;  ///< of the slot that was sought
  int first, next;           ///< slots: the sequence's first, and the next one's

  __device__ ScanSlots(View<Index const, 1> const& offsets, int length, int row)
      : sequence{row}, begin{0}, end{length}, first{0}, next{offsets ? 0 : none}, offsets_{offsets}, length_{length} {}

  __device__ void seek(int slot) {
    if (slot >= first && slot < next) return;
    int const count = static_cast<int>(offsets_.extent(0)) - 1;
    int low = 0, high = count;
    while (high - low > 1) {
      int const middle = low + (high - low) / 2;
      (first_slot(middle) <= slot ? low : high) = middle;
    }
    sequence = low;
    begin = clamped(low), end = max(begin, clamped(low + 1));
    first = first_slot(low), next = low + 1 < count ? first_slot(low + 1) : none;
  }
  /// The last slot of the sequence that is not empty.
  __device__ int last() const { return first + max(0, (end - begin - 1) / group); }

  static constexpr int group = ScanBackwardTuning::group;

 private:
  static constexpr int none = 0x7fffffff;
  __device__ int clamped(int s) const { return static_cast<int>(max(Index{0}, min(Index{length_}, offsets_[s]))); }
  __device__ int first_slot(int s) const { return clamped(s) / group + s; }

  View<Index const, 1> const& offsets_;
  int length_;
};

/// A group of steps [t, t + count) of one sequence.
struct ScanGroup {
  int sequence, t, count;
  bool first, last;  ///< whether the sequence starts before it, ends after it
  bool joined;       ///< whether the sequence started before the segment

  __device__ ScanGroup(ScanSlots& slots, int slot, int segment_begin) {
    slots.seek(slot);
    sequence = slots.sequence;
    int const from = slots.begin + (slot - slots.first) * ScanSlots::group;
    bool const there = from >= slots.begin && from < slots.end;
    t = there ? from : 0;
    count = there ? min(ScanSlots::group, slots.end - from) : 0;
    first = slot == slots.first, last = slot == slots.last();
    joined = slots.first < segment_begin;
  }
};

/// `t` rows further: one multiply-add of 32-bit factors.
template <class E>
__device__ E* rows_on(E* base, int stride_in_bytes, int t) {
  E* out;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(out) : "r"(t), "r"(stride_in_bytes), "l"(base));
  return out;
}
/// A tensor's row: where channel 0 at time 0 stands, and the bytes from one time to the next.
template <class T>
struct alignas(16) ScanRow {
  T* base;
  int stride;
};
template <class T, int Rank>
__device__ int time_stride(View<T, Rank> const& x) {
  return static_cast<int>(x.stride(1)) * static_cast<int>(sizeof(T));
}
template <class T>
__device__ ScanRow<std::remove_const_t<T>> row_of(View<T, 3> const& x, Index b) {
  return {const_cast<std::remove_const_t<T>*>(x.data() + b * x.stride(0)), time_stride(x)};
}

}  // namespace blackmamba::detail
