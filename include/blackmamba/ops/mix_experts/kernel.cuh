#pragma once
/// \file
/// The two products of a mixture's experts for few tokens, from the tokens as they lie to their weighted sums as they lie.
///
/// What counts is that the memory never waits. One warp keeps a ring of tiles of the weights filled through the copy engine, across
/// the ends of sums and of experts; another brings to the same stages the pieces of the tokens' rows that go with them, row by row,
/// so that a token may lie anywhere and no load stands between a tile's arrival and its use. Eight warps multiply: the weights are
/// the left operand of `mma.sync`, 16 of their rows (and the 16 that they gate), the tokens the right one, 8 at a time; which index
/// of the sum a register stands for is the same in both, and so does not matter. The warps split the sum, and their parts are added
/// in their order.

#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/expert_mlp/plain.cuh>
#include <blackmamba/ops/expert_mlp/tensor_rows.cuh>
#include <blackmamba/ops/mix_experts/plan.cuh>

namespace blackmamba::detail {

/// What is done with the sums.
enum class MixEnd {
  gate,      ///< act(first half of h) · second half, by place
  activate,  ///< act(h), by place
  combine,   ///< the sum over a token's slots of weight · (sum + bias), by token
};

/// `Eights`: of tokens of an expert at once. One for as many assignments as that; blocks then leave room for one of the next
/// kernel.
template <MixEnd End, int Eights>
struct MixTuning {
  static constexpr bool gated = End == MixEnd::gate;
  static constexpr int warps = 8, threads = 32 * (warps + 2), rows = 16, tokens = 8 * Eights;
  static constexpr int most = Eights == 1 ? 8 : 256;              ///< assignments
  static constexpr int blocks = Eights == 1 ? 2 : 1;              ///< of a multiprocessor
  static constexpr int frames = gated ? 2 : 1;                    ///< rows of the gate and of the value, or just rows
  static constexpr int boxes = gated ? 4 : 8;                     ///< of 64 along the sum, in a stage
  static constexpr int steps = gated ? 1 : 2, part = 32 * steps;  ///< of 32 along the sum, and in all, of a warp in a stage
  static constexpr int depth = 64 * boxes;                        ///< of a stage, along the sum
  static constexpr int stages = Eights == 1 ? 4 : gated ? 7 : 5;
  static constexpr unsigned box_bytes = rows * 128, weight_bytes = frames * boxes * box_bytes;
  /// From one token to the next: lanes of two tokens meet different banks.
  static constexpr unsigned token_bytes = depth * 2 + 64, rows_bytes = tokens * token_bytes;
  static constexpr int pitch = rows * frames + 4;  ///< of a token's sums
  static constexpr unsigned parts_bytes = warps * tokens * pitch * 4, outputs_bytes = End == MixEnd::combine ? most * rows * 2 : 0;
  static constexpr unsigned shared_bytes = 1024 + stages * (weight_bytes + rows_bytes) + parts_bytes + outputs_bytes;
};

/// y = End(x W_eᵀ + b_e). x is by token before the first product, by place before the second.
template <class T>
struct MixProduct {
  CUtensorMap weights;
  View<int const, 2> experts;
  FaultSlot* slot;  ///< where the first kernel of the operation tells of experts that are none
  RowsOf<T const> x;
  View<T const, 2> bias;
  int E, K, N;
  Activation kind;
  RowsOf<T> active;                   ///< by place, but for `combine`
  View<float const, 2> slot_weights;  ///< for `combine`
  View<T, 2> y;
};

#if defined(__CUDACC__)

/// Starts copying neighbouring bytes to shared memory. All three are multiples of 16.
__device__ inline void bring_bytes(std::uint32_t barrier, std::uint32_t to, void const* from, unsigned bytes) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}

__device__ inline Piece shared_piece(std::uint32_t address) {
  float4 const v = load_shared(address);
  return {{__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)}};
}

#endif

/// The weights are the same whenever this is queued, and for `combine` so are experts and slots' weights, which kernels before the
/// one before have written: see `let_next_start`.
template <class T, MixEnd End, int Eights>
__global__ void __launch_bounds__(MixTuning<End, Eights>::threads, MixTuning<End, Eights>::blocks)
    mix_kernel(__grid_constant__ MixProduct<T> const p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  using Tuning = MixTuning<End, Eights>;
  constexpr int frames = Tuning::frames, stages = Tuning::stages;
  constexpr bool combine = End == MixEnd::combine;
  static_assert(Tuning::tokens * Tuning::rows <= 32 * Tuning::warps, "a thread has one output of a tile");
  extern __shared__ unsigned char mix_memory[];
  __shared__ unsigned long long barriers[2 * stages];
  __shared__ MixPlan<Tuning::most> plan;
  auto const memory = static_cast<std::uint32_t>(__cvta_generic_to_shared(mix_memory));
  std::uint32_t const tiles = (memory + 1023) & ~1023u, rows = tiles + stages * Tuning::weight_bytes;
  unsigned char* const behind = mix_memory + (rows - memory) + stages * Tuning::rows_bytes;
  auto* const parts = reinterpret_cast<float*>(behind);                                       // (warps, tokens, pitch)
  [[maybe_unused]] auto* const outputs = reinterpret_cast<T*>(behind + Tuning::parts_bytes);  // (assignments, 16)
  std::uint32_t const full = static_cast<std::uint32_t>(__cvta_generic_to_shared(barriers)), empty = full + 8 * stages;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, q = lane % 4;
  // A fragment's row g is row `r` of the tile: eight lanes that read together then meet all banks.
  int const g = lane / 4, r = g % 2 * 4 + g / 2;
  if (thread == 0) {
    fetch_description(p.weights);
    for (unsigned i = 0; i < stages; ++i) barrier_init(full + 8 * i, 2), barrier_init(empty + 8 * i, 32 * Tuning::warps);
    barriers_ready();
  }
  auto const await = [] {
    await_kernels_before();
    let_next_start();  // not sooner: what the next reads early is there then
  };
  if constexpr (!combine) await();
  int const groups = plan.build(p.experts, p.E, p.slot_weights, p.slot);
  if (combine && warp != Tuning::warps) await();

  int const panels = (p.N + Tuning::rows - 1) / Tuning::rows;
  // Calls body(expert, first place, tokens) for the tokens of an expert, as many at once as fit.
  auto const each_chunk = [&](int group, auto const& body) {
    int const expert = plan.of_group[group], end = plan.end[group];
    for (int first = plan.begin[group]; first < end; first += Tuning::tokens) body(expert, first, min(Tuning::tokens, end - first));
  };
  // Calls body(column, expert, first place, tokens) for each of this block's tiles, and after(column) after those of a panel.
  auto const each_tile = [&](auto const& body, auto const& after) {
    if constexpr (combine) {
      for (int panel = static_cast<int>(blockIdx.x); panel < panels; panel += static_cast<int>(gridDim.x)) {
        int const column = panel * Tuning::rows;
        for (int group = 0; group < groups; ++group)
          each_chunk(group, [&](int expert, int first, int count) { body(column, expert, first, count); });
        after(column);
      }
    } else {
      for (int tile = static_cast<int>(blockIdx.x); tile < groups * panels; tile += static_cast<int>(gridDim.x))
        each_chunk(tile / panels,
                   [&](int expert, int first, int count) { body(tile % panels * Tuning::rows, expert, first, count); });
    }
  };
  unsigned stage = 0, parity = 0;
  auto const next = [&] {
    if (++stage == stages) stage = 0, parity ^= 1;
  };

  if (warp == Tuning::warps) {
    if (lane > 0) return;
    each_tile(
        [&](int column, int expert, int, int) {
          for (int k = 0; k < p.K; k += Tuning::depth, next()) {
            std::uint32_t const here = full + 8 * stage, to = tiles + stage * Tuning::weight_bytes;
            int const boxes = min(Tuning::boxes, (p.K - k + 63) / 64);
            barrier_wait(empty + 8 * stage, parity ^ 1);
            barrier_expect(here, static_cast<unsigned>(frames * boxes) * Tuning::box_bytes);
            for (int f = 0; f < frames; ++f)
              for (int b = 0; b < boxes; ++b)
                bring_tile(p.weights, here, to + static_cast<unsigned>(f * Tuning::boxes + b) * Tuning::box_bytes, k + 64 * b,
                           f * p.N + column, expert);
          }
        },
        [](int) {});
    return;
  }
  if (warp > Tuning::warps) {
    int const k_slots = static_cast<int>(p.experts.extent(1));
    each_tile(
        [&](int, int, int first, int count) {
          int const place = first + min(lane, count - 1);
          T const* const from = p.x.at(combine ? place : plan.order[place] / k_slots, 0);
          for (int k = 0; k < p.K; k += Tuning::depth, next()) {
            std::uint32_t const here = full + 8 * stage;
            unsigned const bytes = static_cast<unsigned>(min(Tuning::depth, p.K - k)) * sizeof(T);
            barrier_wait(empty + 8 * stage, parity ^ 1);
            if (lane == 0) barrier_expect(here, static_cast<unsigned>(count) * bytes);
            __syncwarp();
            if (lane < count)
              bring_bytes(here, rows + stage * Tuning::rows_bytes + static_cast<unsigned>(lane) * Tuning::token_bytes, from + k,
                          bytes);
          }
        },
        [](int) {});
    return;
  }

  int const mine = Tuning::part * warp;  // of a stage, along the sum
  auto const box = static_cast<unsigned>(mine / 64);
  int const piece = mine % 64 / 8 + q;  // of a row of the box
  int const n = thread % Tuning::rows;
  each_tile(
      [&](int column, int expert, int first, int count) {
        float bias[frames]{};
        if (p.bias && column + n < p.N)
#pragma unroll
          for (int f = 0; f < frames; ++f) bias[f] = device_widen(p.bias(expert, f * p.N + column + n));
        float sums[frames][Eights][4]{};
        for (int k = 0; k < p.K; k += Tuning::depth, next()) {
          barrier_wait(full + 8 * stage, parity);
          Piece w[Tuning::steps][frames][2], x[Tuning::steps][Eights];
          bool const there = k + mine < p.K;
          if (there) {
            std::uint32_t const w_at = tiles + stage * Tuning::weight_bytes + box * Tuning::box_bytes,
                                x_at = rows + stage * Tuning::rows_bytes;
#pragma unroll
            for (int s = 0; s < Tuning::steps; ++s) {
              int const index = mine + 32 * s + 8 * q;
#pragma unroll
              for (int f = 0; f < frames; ++f)
#pragma unroll
                for (int lower = 0; lower < 2; ++lower)
                  w[s][f][lower] = shared_piece(w_at + static_cast<unsigned>(f * Tuning::boxes) * Tuning::box_bytes +
                                                static_cast<unsigned>((r + 8 * lower) * 128 + ((piece + 4 * s) ^ r) * 16));
              // Past the end of the sum lies what earlier tiles left; past the last token too, where no sum is read.
#pragma unroll
              for (int j = 0; j < Eights; ++j)
                x[s][j] = k + index < p.K ? shared_piece(x_at + static_cast<unsigned>(8 * j + g) * Tuning::token_bytes +
                                                         static_cast<unsigned>(index) * 2)
                                          : Piece{};
            }
          }
          barrier_arrive(empty + 8 * stage);  // by every lane: no slower, and race checkers follow it
          if (!there) continue;
#pragma unroll
          for (int s = 0; s < Tuning::steps; ++s)
#pragma unroll
            for (int i = 0; i < 4; i += 2)
#pragma unroll
              for (int f = 0; f < frames; ++f)
#pragma unroll
                for (int j = 0; j < Eights; ++j) {
                  std::uint32_t const left[4]{w[s][f][0].words[i], w[s][f][1].words[i], w[s][f][0].words[i + 1],
                                              w[s][f][1].words[i + 1]};
                  mma_16<T>(sums[f][j], left, x[s][j].words[i], x[s][j].words[i + 1]);
                }
        }
        group_sync<1>();  // what the tile before left has been read
#pragma unroll
        for (int j = 0; j < Eights; ++j)
#pragma unroll
          for (int f = 0; f < frames; ++f)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              parts[(warp * Tuning::tokens + 8 * j + 2 * q + i % 2) * Tuning::pitch + 16 * f + r + 8 * (i / 2)] = sums[f][j][i];
        group_sync<1>();
        int const token = thread / Tuning::rows;
        if (token >= count || column + n >= p.N) return;
        T h[frames];
#pragma unroll
        for (int f = 0; f < frames; ++f) {
          float sum = 0;
#pragma unroll
          for (int v = 0; v < Tuning::warps; ++v) sum += parts[(v * Tuning::tokens + token) * Tuning::pitch + 16 * f + n];
          h[f] = device_round<T>(sum + bias[f]);
        }
        if constexpr (combine) {
          outputs[plan.order[first + token] * Tuning::rows + n] = h[0];
        } else {
          float a = device_activate(p.kind, device_widen(h[0]));
          if constexpr (Tuning::gated) a *= device_widen(h[1]);
          *p.active.at(first + token, column + n) = device_round<T>(a);
        }
      },
      [&](int column) {
        if constexpr (combine) {
          group_sync<1>();
          int const k_slots = static_cast<int>(p.experts.extent(1)), tokens = static_cast<int>(p.experts.extent(0));
          for (int t = thread / Tuning::rows; t < tokens && column + n < p.N; t += 32 * Tuning::warps / Tuning::rows) {
            float sum = 0;
            for (int i = t * k_slots; i < (t + 1) * k_slots; ++i)
              if (plan.expert[i] >= 0) sum = fmaf(plan.weight[i], device_widen(outputs[i * Tuning::rows + n]), sum);
            p.y(t, column + n) = device_round<T>(sum);
          }
        }
      });
#endif
}

}  // namespace blackmamba::detail
