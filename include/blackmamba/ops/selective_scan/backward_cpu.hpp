#pragma once
/// \file
/// The gradient of the selective scan with channels across the lanes. Time is cut into chunks of about sqrt(L): one pass forward
/// keeps the state before each chunk, then chunk by chunk from the last the steps are repeated, kept, and gone back. Blocks of
/// channels go over threads; what they add to d_B and d_C is kept apart for a few chunks and summed in the order of the blocks.

#include <algorithm>
#include <cmath>
#include <utility>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/selective_scan/backward_reference.hpp>
#include <blackmamba/ops/selective_scan/cpu.hpp>

namespace blackmamba {

namespace detail {

/// How the work is cut. The blocks do not depend on the number of threads, since the order of sums does depend on the blocks.
template <class Acc>
struct ScanBackwardPlan {
  static constexpr Index W = simd::width<Acc>, most_packs = 4;
  Index L, N, per_group, packs, blocks_per_group, blocks, chunk, chunks;
  Index kept;  ///< states that the pass forward is to keep: none if the caller has them

  ScanBackwardPlan(Index length, Index states, Index groups, Index channels_per_group, bool has_kept_states)
      : L{length},
        N{states},
        per_group{channels_per_group},
        packs{std::min(most_packs, ceil_div(per_group, W))},
        blocks_per_group{ceil_div(per_group, packs * W)},
        blocks{groups * blocks_per_group},
        chunk{scan_chunk(length)},
        chunks{scan_chunks(length)},
        kept{has_kept_states ? 0 : chunks} {}

  Index state_size() const { return packs * N * W; }
  Index row_size() const { return packs * W; }
  /// Accumulators of memory for one block of one batch entry.
  Index block_size() const {
    return (4 + kept + 2 * chunk) * state_size() + (2 + chunk) * row_size() + 2 * N * W + ceil_div(2 * N, W) * W;
  }
  /// Chunks between two sums of the blocks' shares: threads meet seldom, and the shares take as much memory as the kept states.
  Index span() const { return std::max(Index{1}, row_size() / 2); }
  Index begin(Index c) const { return c * chunk; }
  Index end(Index c) const { return std::min(L, (c + 1) * chunk); }
};

/// Some channels of one group in one batch entry. All that lasts from chunk to chunk is in the memory it is given, so that any
/// thread may go on with it.
template <Scalar T>
class ScanBackwardBlock {
  using Acc = accumulator_t<T>;
  using Pack = simd::pack<Acc>;
  using Plan = ScanBackwardPlan<Acc>;
  static constexpr Index W = Plan::W, ahead = 8;

 public:
  ScanBackwardBlock(SelectiveScanBackwardArgs<T> const& a, Sequences const& sequences, Plan const& plan, Index batch, Index block,
                    Acc* memory)
      : a_{a}, sequences_{sequences}, plan_{plan}, N_{plan.N}, b_{batch}, group_{block / plan.blocks_per_group} {
    Index const within = block % plan.blocks_per_group * plan.row_size();
    first_ = group_ * plan.per_group + within;
    count_ = std::min(plan.row_size(), plan.per_group - within);
    packs_ = ceil_div(count_, W);
    auto const take = [&](Index size) { return std::exchange(memory, memory + size); };
    Index const state = plan.state_size(), row = plan.row_size();
    A_ = take(state), h_ = take(state), g_ = take(state), d_A_ = take(state);
    kept_ = take(plan.kept * state), decay_ = take(plan.chunk * state), carried_ = take(plan.chunk * state);
    d_D_ = take(row), d_bias_ = take(row), delta_ = take(plan.chunk * row);
    d_B_ = take(N_ * W), d_C_ = take(N_ * W), B_ = take(N_), C_ = take(N_);
    for (Index j = 0; j < packs_; ++j) {
      D_[j] = a.D ? load_lanes(&a.D[channel(j)], a.D.stride(0), lanes(j)) : Pack{};
      bias_[j] = a.delta_bias ? load_lanes(&a.delta_bias[channel(j)], a.delta_bias.stride(0), lanes(j)) : Pack{};
    }
  }

  /// The pass forward, where its states are not at hand.
  void begin() {
    constexpr Acc inverse_ln2 = Acc(1.44269504088896340735992468100189214L);
    fill(A_, [&](Index d, Index n) { return a_.A(d, n) * inverse_ln2; });
    Index const state = plan_.state_size();
    std::fill_n(d_A_, state, Acc(0));
    std::fill_n(d_D_, 2 * plan_.row_size(), Acc(0));
    if (a_.kept) return;
    std::fill_n(h_, state, Acc(0));
    for (Index c = 0; c < plan_.chunks; ++c) {
      std::copy_n(h_, state, kept_ + c * state);
      if (c + 1 < plan_.chunks) forward<false>(c);
    }
  }

  /// One chunk forward and back. Writes this block's shares of d_B and d_C, (times, 2, N).
  void chunk(Index c, View<Acc, 3> shares) {
    if (a_.kept)
      for (Index j = 0; j < packs_; ++j)
        for (Index n = 0; n < N_; ++n)
          simd::store(h_ + (j * N_ + n) * W, load_lanes(&a_.kept(b_, c, n, channel(j)), a_.kept.stride(3), lanes(j)));
    else
      std::copy_n(kept_ + c * plan_.state_size(), plan_.state_size(), h_);
    forward<true>(c);
    Index s = sequence_at(plan_.end(c) - 1);
    for (Index t = plan_.end(c) - 1; t >= plan_.begin(c); --t) {
      while (t < sequences_[s].begin) --s;
      if (t == sequences_[s].end - 1)
        fill(g_, [&](Index d, Index n) { return a_.d_last_state ? a_.d_last_state(s, d, n) : Acc(0); });
      Index const i = t - plan_.begin(c);
      step_back(t, i);
      for (Index n = 0; n < N_; ++n) {
        shares(i, 0, n) = simd::sum(simd::load(d_B_ + n * W));
        shares(i, 1, n) = simd::sum(simd::load(d_C_ + n * W));
      }
      if (t == sequences_[s].begin && a_.d_initial_state)
        for (Index j = 0; j < count_; ++j)
          for (Index n = 0; n < N_; ++n) a_.d_initial_state(s, first_ + j, n) = g_[at(j, n)];
    }
  }

  /// Adds what the whole length gave to the parameters' gradients.
  void add_to_parameters() const {
    for (Index j = 0; j < count_; ++j) {
      if (a_.d_A)
        for (Index n = 0; n < N_; ++n) a_.d_A(first_ + j, n) += d_A_[at(j, n)];
      if (a_.d_D) a_.d_D[first_ + j] += d_D_[j];
      if (a_.d_delta_bias) a_.d_delta_bias[first_ + j] += d_bias_[j];
    }
  }

 private:
  Index channel(Index j) const { return first_ + j * W; }
  Index lanes(Index j) const { return std::min(W, count_ - j * W); }
  Index at(Index c, Index n) const { return (c / W * N_ + n) * W + c % W; }

  /// A state from its elements; lanes past the last channel hold zeros, and then stay zero.
  template <class Element>
  void fill(Acc* state, Element const& element) {
    for (Index n = 0; n < N_; ++n)
      for (Index c = 0; c < packs_ * W; ++c) state[at(c, n)] = c < count_ ? element(first_ + c, n) : Acc(0);
  }

  /// The sequence that holds time t, which is never an empty one.
  Index sequence_at(Index t) const {
    if (!a_.offsets) return b_;
    Index low = 0, high = sequences_.count();
    while (high - low > 1) {
      Index const middle = low + (high - low) / 2;
      (a_.offsets[middle] <= t ? low : high) = middle;
    }
    return low;
  }

  template <bool keep>
  void forward(Index c) {
    Index s = sequence_at(plan_.begin(c));
    for (Index t = plan_.begin(c); t < plan_.end(c); ++t) {
      while (t >= sequences_[s].end) ++s;
      if (t == sequences_[s].begin)
        fill(h_, [&](Index d, Index n) { return a_.initial_state ? a_.initial_state(s, d, n) : Acc(0); });
      step<keep>(t, t - plan_.begin(c));
    }
  }

  void load_rows(Index t) {
    for (Index n = 0; n < N_; ++n) {
      B_[n] = widen(a_.B(b_, t, group_, n));
      C_[n] = widen(a_.C(b_, t, group_, n));
    }
  }
  Pack before_softplus(Index t, Index j) const {
    return load_lanes(&a_.delta(b_, t, channel(j)), a_.delta.stride(2), lanes(j)) + bias_[j];
  }

  /// Asks for this block's part of a row that comes some steps later: going from row to row is a stride in which the machine sees
  /// no stream.
  template <class S>
  void ask_for(View<S, 3> const& rows, Index t) const {
    if (!rows || t < 0 || t >= plan_.L) return;
    S const* const from = &rows(b_, t, first_);
    for (Index i = 0; i < count_; i += 64 / static_cast<Index>(sizeof(S))) __builtin_prefetch(from + i);
  }

  /// Step i of a chunk: keeps the step sizes, exp(δ A) and its product with the state before.
  template <bool keep>
  void step(Index t, Index i) {
    ask_for(a_.delta, t + ahead), ask_for(a_.u, t + ahead);
    load_rows(t);
    Pack delta[Plan::most_packs], input[Plan::most_packs];
    for (Index j = 0; j < packs_; ++j) {
      delta[j] = before_softplus(t, j);
      if (a_.delta_softplus) delta[j] = simd::softplus(delta[j]);
      input[j] = delta[j] * load_lanes(&a_.u(b_, t, channel(j)), a_.u.stride(2), lanes(j));
      if constexpr (keep) simd::store(delta_ + i * plan_.row_size() + j * W, delta[j]);
    }
    for (Index j = 0; j < packs_; ++j) {
      Index const offset = j * N_ * W, kept = i * plan_.state_size() + offset;
      Acc const *const A = A_ + offset, *const B = B_;
      Acc *const h = h_ + offset, *const decays = decay_ + kept, *const carries = carried_ + kept;
      for (Index n = 0; n < N_; ++n) {
        Pack const decay = simd::exp2_flushed(delta[j] * simd::load(A + n * W)), carried = decay * simd::load(h + n * W);
        simd::store(h + n * W, simd::multiply_add(input[j], simd::broadcast(B[n]), carried));
        if constexpr (keep) {
          simd::store(decays + n * W, decay);
          simd::store(carries + n * W, carried);
        }
      }
    }
  }

  /// What a pack of channels sums over the states at one time.
  struct Sums {
    Pack y{}, through_A{}, through_B{};
  };

  void step_back(Index t, Index i) {
    constexpr Acc ln2 = Acc(0.693147180559945309417232121458176568L);
    ask_for(a_.d_y, t - ahead), ask_for(a_.z, t - ahead);
    ask_for(a_.d_delta, t - ahead), ask_for(a_.d_u, t - ahead), ask_for(a_.d_z, t - ahead);
    load_rows(t);
    std::fill_n(d_B_, 2 * N_ * W, Acc(0));
    Pack u[Plan::most_packs], d_sum[Plan::most_packs], d_gate[Plan::most_packs];
    Sums sums[Plan::most_packs];
    Acc const* const delta = delta_ + i * plan_.row_size();
    for (Index j = 0; j < packs_; ++j) {
      u[j] = load_lanes(&a_.u(b_, t, channel(j)), a_.u.stride(2), lanes(j));
      d_sum[j] = load_lanes(&a_.d_y(b_, t, channel(j)), a_.d_y.stride(2), lanes(j));
      if (a_.z) {
        Pack const z = load_lanes(&a_.z(b_, t, channel(j)), a_.z.stride(2), lanes(j)), gate = simd::sigmoid(z);
        d_gate[j] = d_sum[j] * gate * (Acc(1) + z * (Acc(1) - gate));
        d_sum[j] *= z * gate;
      }
    }
    for (Index j = 0; j < packs_; ++j) sums[j] = states_back(i, j, simd::load(delta + j * W), u[j], d_sum[j]);
    for (Index j = 0; j < packs_; ++j) {
      Pack d_delta = u[j] * sums[j].through_B + ln2 * sums[j].through_A;
      if (a_.delta_softplus) d_delta *= simd::sigmoid(before_softplus(t, j));
      add(d_D_ + j * W, d_sum[j] * u[j]);
      add(d_bias_ + j * W, d_delta);
      if (a_.d_delta) store_lanes(&a_.d_delta(b_, t, channel(j)), a_.d_delta.stride(2), lanes(j), d_delta);
      if (a_.d_u)
        store_lanes(&a_.d_u(b_, t, channel(j)), a_.d_u.stride(2), lanes(j),
                    D_[j] * d_sum[j] + simd::load(delta + j * W) * sums[j].through_B);
      if (a_.d_z) store_lanes(&a_.d_z(b_, t, channel(j)), a_.d_z.stride(2), lanes(j), d_gate[j] * (sums[j].y + D_[j] * u[j]));
    }
  }

  Sums states_back(Index i, Index j, Pack delta, Pack u, Pack d_sum) {
    Index const N = N_, offset = j * N * W, kept = i * plan_.state_size() + offset;
    Acc const *const A = A_ + offset, *const B = B_, *const C = C_;
    Acc const *const decays = decay_ + kept, *const carries = carried_ + kept;
    Acc *const gradient = g_ + offset, *const d_A = d_A_ + offset, *const d_B = d_B_, *const d_C = d_C_;
    Pack const input = delta * u;
    Sums out;
    for (Index n = 0; n < N; ++n) {
      Pack const carried = simd::load(carries + n * W), b = simd::broadcast(B[n]), c = simd::broadcast(C[n]);
      Pack const h = simd::multiply_add(input, b, carried), g = simd::multiply_add(d_sum, c, simd::load(gradient + n * W));
      Pack const g_carried = g * carried;
      out.y = simd::multiply_add(h, c, out.y);
      out.through_B = simd::multiply_add(g, b, out.through_B);
      out.through_A = simd::multiply_add(g_carried, simd::load(A + n * W), out.through_A);
      simd::store(gradient + n * W, g * simd::load(decays + n * W));
      simd::store(d_A + n * W, simd::multiply_add(g_carried, delta, simd::load(d_A + n * W)));
      simd::store(d_B + n * W, simd::multiply_add(g, input, simd::load(d_B + n * W)));
      simd::store(d_C + n * W, simd::multiply_add(h, d_sum, simd::load(d_C + n * W)));
    }
    return out;
  }

  static void add(Acc* to, Pack x) { simd::store(to, simd::load(to) + x); }

  SelectiveScanBackwardArgs<T> const& a_;
  Sequences const& sequences_;
  Plan const& plan_;
  Index N_, b_, group_, first_, count_, packs_;
  Acc *A_, *h_, *g_, *d_A_, *kept_, *decay_, *carried_, *d_D_, *d_bias_, *delta_, *d_B_, *d_C_, *B_, *C_;
  Pack D_[Plan::most_packs], bias_[Plan::most_packs];
};

/// Sums the blocks' shares (blocks, times, 2, N) of one batch entry into d_B and d_C at times [begin, end), counted from `from`.
template <Scalar T>
void sum_scan_shares(SelectiveScanBackwardArgs<T> const& a, Index batch, Index from, Index begin, Index end,
                     View<accumulator_t<T>, 4> shares) {
  using Acc = accumulator_t<T>;
  Index const groups = a.B.extent(2), blocks = shares.extent(0) / groups;
  for (Index which = 0; which < 2; ++which)
    if (View<T, 4> const out = which == 0 ? a.d_B : a.d_C)
      for (Index i = begin; i < end; ++i)
        for (Index group = 0; group < groups; ++group)
          for (Index n = 0; n < out.extent(3); ++n) {
            Acc sum{0};
            for (Index block = group * blocks; block < (group + 1) * blocks; ++block) sum += shares(block, i, which, n);
            out(batch, from + i, group, n) = static_cast<T>(sum);
          }
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void selective_scan_backward_on(Cpu const& ctx, SelectiveScanBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  using Block = detail::ScanBackwardBlock<T>;
  Index const batch = a.u.extent(0), L = a.u.extent(1), groups = a.B.extent(2), N = a.A.extent(1);
  Sequences const sequences{"selective_scan_backward", a.offsets, batch, L};
  if (a.u.extent(2) == 0 || batch == 0) return selective_scan_backward_on(static_cast<Reference const&>(ctx), a);
  if (a.d_initial_state)  // empty sequences, which no step reaches
    for (Index s = 0; s < sequences.count(); ++s)
      if (sequences[s].begin == sequences[s].end)
        for (Index d = 0; d < a.u.extent(2); ++d)
          for (Index n = 0; n < N; ++n) a.d_initial_state(s, d, n) = a.d_last_state ? a.d_last_state(s, d, n) : Acc(0);
  if (L == 0) return;

  detail::ScanBackwardPlan<Acc> const plan{L, N, groups, a.u.extent(2) / groups, bool(a.kept)};
  // Batch entries at once: enough that threads meet seldom, since where they have to share cores each meeting waits for a turn.
  Index const together = std::min(batch, ceil_div(Index{32} * ctx.threads(), plan.blocks));
  auto const scope = ctx.scratch().scope();
  auto const memory = ctx.scratch().template take<Acc>(Shape<2>{together * plan.blocks, plan.block_size()});
  auto const shares =
      ctx.scratch().template take<Acc>(Shape<5>{together, plan.blocks, std::min(L, plan.span() * plan.chunk), 2, N});
  for (Index first = 0; first < batch; first += together) {
    Index const entries = std::min(together, batch - first);
    auto const block = [&](Index task) {
      return Block{a, sequences, plan, first + task / plan.blocks, task % plan.blocks, &memory(task, 0)};
    };
    parallel_for(ctx.threads(), entries * plan.blocks, [&](Index task) { block(task).begin(); });
    for (Index last = plan.chunks, begin = 0; last > 0; last = begin) {
      begin = std::max(Index{0}, last - plan.span());
      Index const from = plan.begin(begin), times = plan.end(last - 1) - from;
      parallel_for(ctx.threads(), entries * plan.blocks, [&](Index task) {
        auto here = block(task);
        auto const mine = shares[task / plan.blocks][task % plan.blocks];
        for (Index c = last - 1; c >= begin; --c) here.chunk(c, mine.slice(0, plan.begin(c) - from, plan.end(c) - plan.begin(c)));
      });
      constexpr Index grain = 32;
      Index const pieces = ceil_div(times, grain);
      if (a.d_B || a.d_C)
        parallel_for(ctx.threads(), entries * pieces, [&](Index task) {
          Index const entry = task / pieces, first_time = task % pieces * grain;
          detail::sum_scan_shares(a, first + entry, from, first_time, std::min(times, first_time + grain), shares[entry]);
        });
    }
    parallel_for(ctx.threads(), plan.blocks, [&](Index i) {
      for (Index entry = 0; entry < entries; ++entry) block(entry * plan.blocks + i).add_to_parameters();
    });
  }
}

}  // namespace blackmamba
