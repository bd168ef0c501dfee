#pragma once
/// \file
/// The selective scan with channels across the lanes: a block of channels keeps its state and its part of A transposed and in
/// the first cache while time passes; blocks, and sequences where there are too few blocks, go over threads.

#include <algorithm>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/selective_scan/reference.hpp>

namespace blackmamba {

namespace detail {

/// Up to W elements a stride apart, and zeros.
template <class T>
inline simd::pack<accumulator_t<T>> load_lanes(T const* p, Index stride, Index count) {
  if (stride == 1 && count == simd::width<accumulator_t<T>>) return simd::load(p);
  simd::pack<accumulator_t<T>> out{};
  for (Index i = 0; i < count; ++i) out[i] = widen(p[i * stride]);
  return out;
}
template <class T>
inline void store_lanes(T* p, Index stride, Index count, simd::pack<accumulator_t<T>> x) {
  if (stride == 1 && count == simd::width<accumulator_t<T>>) return simd::store(p, x);
  for (Index i = 0; i < count; ++i) p[i * stride] = static_cast<T>(static_cast<accumulator_t<T>>(x[i]));
}

/// Some channels of one group through whole sequences.
template <Scalar T>
class ScanBlock {
  using Acc = accumulator_t<T>;
  using Pack = simd::pack<Acc>;
  static constexpr Index W = simd::width<Acc>;

 public:
  static constexpr Index most_packs = 8;
  static constexpr Index most_channels = most_packs * W;

  /// Accumulators of working memory for N states.
  static Index working_size(Index N) { return 2 * most_channels * N + ceil_div(2 * N, W) * W; }

  ScanBlock(SelectiveScanArgs<T> const& a, Index group, Index first, Index count, Acc* memory)
      : a_{a},
        N_{a.A.extent(1)},
        group_{group},
        first_{first},
        count_{count},
        packs_{ceil_div(count, W)},
        chunk_{scan_chunk(a.u.extent(1))} {
    A_ = memory, h_ = A_ + most_channels * N_, B_ = h_ + most_channels * N_, C_ = B_ + N_;
    // exp(δ A) is taken as 2^(δ (A / ln 2)), which spares a product for each of them.
    constexpr Acc inverse_ln2 = Acc(1.44269504088896340735992468100189214L);
    for (Index n = 0; n < N_; ++n)
      for (Index c = 0; c < packs_ * W; ++c) A_[at(c, n)] = c < count_ ? a.A(first_ + c, n) * inverse_ln2 : Acc(0);
    for (Index j = 0; j < packs_; ++j) {
      D_[j] = a.D ? load_lanes(&a.D[channel(j)], a.D.stride(0), lanes(j)) : Pack{};
      bias_[j] = a.delta_bias ? load_lanes(&a.delta_bias[channel(j)], a.delta_bias.stride(0), lanes(j)) : Pack{};
    }
  }

  void run(Index s, Sequences::Range const& range) {
    for (Index n = 0; n < N_; ++n)
      for (Index c = 0; c < packs_ * W; ++c)
        h_[at(c, n)] = a_.initial_state && c < count_ ? a_.initial_state(s, first_ + c, n) : Acc(0);
    for (Index t = range.begin; t < range.end; ++t) step(range.batch, t);
    if (a_.last_state)
      for (Index c = 0; c < count_; ++c)
        for (Index n = 0; n < N_; ++n) a_.last_state(s, first_ + c, n) = h_[at(c, n)];
  }

 private:
  Index channel(Index j) const { return first_ + j * W; }
  Index lanes(Index j) const { return std::min(W, count_ - j * W); }
  Index at(Index c, Index n) const { return (c / W * N_ + n) * W + c % W; }

  /// All packs together in each phase, so that the long chains of softplus and of the gate overlap.
  void step(Index b, Index t) {
    if (a_.kept && t % chunk_ == 0) keep(b, t / chunk_);
    for (Index n = 0; n < N_; ++n) {
      B_[n] = widen(a_.B(b, t, group_, n));
      C_[n] = widen(a_.C(b, t, group_, n));
    }
    Pack delta[most_packs], skip[most_packs], input[most_packs];
    for (Index j = 0; j < packs_; ++j) {
      Pack const u = load_lanes(&a_.u(b, t, channel(j)), a_.u.stride(2), lanes(j));
      delta[j] = load_lanes(&a_.delta(b, t, channel(j)), a_.delta.stride(2), lanes(j)) + bias_[j];
      if (a_.delta_softplus) delta[j] = simd::softplus(delta[j]);
      input[j] = delta[j] * u;
      skip[j] = D_[j] * u;
    }
    for (Index j = 0; j < packs_; ++j) skip[j] += update(j, delta[j], input[j]);
    for (Index j = 0; j < packs_; ++j) {
      if (a_.z) skip[j] *= simd::silu(load_lanes(&a_.z(b, t, channel(j)), a_.z.stride(2), lanes(j)));
      store_lanes(&a_.y(b, t, channel(j)), a_.y.stride(2), lanes(j), skip[j]);
    }
  }

  void keep(Index b, Index c) const {
    for (Index j = 0; j < packs_; ++j)
      for (Index n = 0; n < N_; ++n)
        store_lanes(&a_.kept(b, c, n, channel(j)), a_.kept.stride(3), lanes(j), simd::load(h_ + (j * N_ + n) * W));
  }

  Pack update(Index j, Pack delta, Pack input) {
    Index const N = N_;
    Acc const *const A = A_ + j * N * W, *const B = B_, *const C = C_;
    Acc* const h = h_ + j * N * W;
    Pack sum{};
    for (Index n = 0; n < N; ++n) {
      Pack const decay = simd::exp2_flushed(delta * simd::load(A + n * W));
      Pack const next = simd::multiply_add(decay, simd::load(h + n * W), input * B[n]);
      simd::store(h + n * W, next);
      sum = simd::multiply_add(next, simd::broadcast(C[n]), sum);
    }
    return sum;
  }

  SelectiveScanArgs<T> const& a_;
  Index N_, group_, first_, count_, packs_, chunk_;
  Acc *A_, *h_, *B_, *C_;
  Pack D_[most_packs], bias_[most_packs];
};

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void selective_scan_on(Cpu const& ctx, SelectiveScanArgs<T> const& a) {
  using Block = detail::ScanBlock<T>;
  using Acc = accumulator_t<T>;
  Sequences const sequences{"selective_scan", a.offsets, a.u.extent(0), a.u.extent(1)};
  Index const groups = a.B.extent(2), per_group = a.u.extent(2) / groups, count = sequences.count();
  if (per_group == 0 || count == 0) return;

  // Blocks as wide as a few cache lines, narrower where threads would stay idle. A lane's arithmetic does not depend on it.
  constexpr Index W = simd::width<Acc>;
  Index const wanted = 2 * ctx.threads();
  Index const width = std::clamp(ceil_div(ceil_div(groups * per_group * count, wanted), W) * W, W, Block::most_channels);
  Index const blocks_per_group = ceil_div(per_group, width), blocks = groups * blocks_per_group;
  Index const shares = std::min(count, ceil_div(wanted, blocks)), sequences_per_share = ceil_div(count, shares);

  auto const scope = ctx.scratch().scope();
  View<Acc, 2> const memory = ctx.scratch().template take<Acc>(Shape<2>{shares * blocks, Block::working_size(a.A.extent(1))});
  parallel_for(ctx.threads(), shares * blocks, [&](Index task) {
    Index const share = task / blocks, group = task % blocks / blocks_per_group;
    Index const begin = task % blocks_per_group * width;
    Block block{a, group, group * per_group + begin, std::min(width, per_group - begin), &memory(task, 0)};
    Index const end = std::min(count, (share + 1) * sequences_per_share);
    for (Index s = share * sequences_per_share; s < end; ++s) block.run(s, sequences[s]);
  });
}

}  // namespace blackmamba
