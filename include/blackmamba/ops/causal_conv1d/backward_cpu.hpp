#pragma once
/// \file
/// The gradient of the causal convolution with channels across the lanes. A block of channels walks through time once: each time's
/// gradient is pushed to the K inputs that it saw, and an input's is written when the last of its outputs has been seen.

#include <algorithm>
#include <utility>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/causal_conv1d/backward_reference.hpp>

namespace blackmamba {

namespace detail {

/// Some channels of one batch entry, through all its sequences.
template <Scalar T>
class ConvBackwardBlock {
  using Acc = accumulator_t<T>;
  using Pack = simd::pack<Acc>;
  static constexpr Index W = simd::width<Acc>;

 public:
  static constexpr Index most_packs = 8;
  static constexpr Index most_channels = most_packs * W;

  /// Accumulators of working memory for a width of K, those of the sums among them.
  static Index working_size(Index K) { return (3 * K + 1) * most_channels; }

  ConvBackwardBlock(CausalConv1dBackwardArgs<T> const& a, Index first, Index count, Acc* memory)
      : a_{a}, K_{a.weight.extent(1)}, first_{first}, count_{count}, packs_{ceil_div(count, W)} {
    auto const take = [&](Index size) { return std::exchange(memory, memory + size); };
    d_bias_ = take(most_channels);
    weight_ = take(K_ * most_channels), pending_ = take(K_ * most_channels), d_weight_ = take(K_ * most_channels);
  }

  void begin() {
    for (Index k = 0; k < K_; ++k)
      for (Index c = 0; c < packs_ * W; ++c) weight_[at(c / W, k) + c % W] = c < count_ ? widen(a_.weight(first_ + c, k)) : Acc(0);
    std::fill_n(d_weight_, K_ * most_channels, Acc(0));
    std::fill_n(d_bias_, most_channels, Acc(0));
  }

  void run(Index s, Sequences::Range const& range) {
    std::fill_n(pending_, K_ * most_channels, Acc(0));
    Index t = range.begin;
    // The usual width, past the steps that reach before the sequence: some steps at a time, so that a pack's sums stay in
    // registers.
    if (constexpr Index usual = 4, run = 32; K_ == usual) {
      for (; t < std::min(range.begin + usual - 1, range.end); ++t)
        for (Index j = 0; j < packs_; ++j) step(s, range, t, j);
      for (Index end; t < range.end; t = end) {
        end = std::min(t + run, range.end);
        for (Index j = 0; j < packs_; ++j)
          if (count_ - j * W >= W)
            steps<usual>(range.batch, t, end, j);
          else
            for (Index i = t; i < end; ++i) step(s, range, i, j);
      }
    }
    for (; t < range.end; ++t)
      for (Index j = 0; j < packs_; ++j) step(s, range, t, j);
    // What is pending belongs to the inputs that the last state copies.
    for (Index i = 0; i + 1 < K_; ++i)
      for (Index j = 0; j < packs_; ++j) {
        Pack d_input = simd::load(pending_ + at(j, i));
        if (a_.d_last_state) d_input += lanes(&a_.d_last_state(s, i, channel(j)), j);
        write(s, range, range.end - range.begin + i, j, d_input);
      }
  }

  void add_to_parameters() const {
    for (Index c = 0; c < count_; ++c) {
      if (a_.d_weight)
        for (Index k = 0; k < K_; ++k) a_.d_weight(first_ + c, k) += d_weight_[at(c / W, k) + c % W];
      if (a_.d_bias) a_.d_bias[first_ + c] += d_bias_[c];
    }
  }

 private:
  Index channel(Index j) const { return first_ + j * W; }
  Index at(Index j, Index k) const { return (j * K_ + k) * W; }
  template <class S>
  Pack lanes(S const* p, Index j) const {
    Index const count = std::min(W, count_ - j * W);
    return count == W ? simd::load(p) : simd::load_part(p, count);
  }
  template <class S>
  void put(S* p, Index j, Pack x) const {
    Index const count = std::min(W, count_ - j * W);
    count == W ? simd::store(p, x) : simd::store_part(p, x, count);
  }

  Pack input(Index s, Sequences::Range const& range, Index t, Index j) const {
    if (t >= range.begin) return lanes(&a_.x(range.batch, t, channel(j)), j);
    return a_.initial_state ? lanes(&a_.initial_state(s, K_ - 1 + t - range.begin, channel(j)), j) : Pack{};
  }

  /// The gradient of input i of a sequence, the initial state's K - 1 first.
  void write(Index s, Sequences::Range const& range, Index i, Index j, Pack d_input) const {
    if (Index const t = range.begin + i - (K_ - 1); t >= range.begin) {
      if (a_.d_x) put(&a_.d_x(range.batch, t, channel(j)), j, d_input);
    } else if (a_.d_initial_state) {
      put(&a_.d_initial_state(s, i, channel(j)), j, d_input);
    }
  }

  /// `step` for all lanes of pack j at the times [begin, end), all of whose inputs are in x.
  template <Index K>
  void steps(Index batch, Index begin, Index end, Index j) {
    Index const x_stride = a_.x.stride(1), y_stride = a_.d_y.stride(1), d_stride = a_.d_x ? a_.d_x.stride(1) : 0;
    T const* next = &a_.x(batch, begin, channel(j));
    T const* d_y = &a_.d_y(batch, begin, channel(j));
    T* d_x = a_.d_x ? &a_.d_x(batch, begin - (K - 1), channel(j)) : nullptr;
    bool const silu = a_.silu;
    Pack const bias = a_.bias ? simd::load(&a_.bias[channel(j)]) : Pack{};
    Pack weight[K], x[K], pending[K], d_weight[K], d_bias = simd::load(d_bias_ + j * W);
    for (Index k = 0; k < K; ++k) {
      weight[k] = simd::load(weight_ + at(j, k)), pending[k] = simd::load(pending_ + at(j, k));
      d_weight[k] = simd::load(d_weight_ + at(j, k));
      if (k + 1 < K) x[k] = simd::load(next - (K - 1 - k) * x_stride);
    }
    for (Index t = begin; t < end; ++t, next += x_stride, d_y += y_stride) {
      x[K - 1] = simd::load(next);
      Pack g = simd::load(d_y);
      if (silu) {
        Pack sum = bias;
        for (Index k = 0; k < K; ++k) sum = simd::multiply_add(weight[k], x[k], sum);
        Pack const gate = simd::sigmoid(sum);
        g *= gate * (Acc(1) + sum * (Acc(1) - gate));
      }
      d_bias += g;
      for (Index k = 0; k < K; ++k) d_weight[k] = simd::multiply_add(g, x[k], d_weight[k]);
      if (d_x) simd::store(d_x, simd::multiply_add(weight[0], g, pending[0])), d_x += d_stride;
      for (Index k = 1; k < K; ++k) pending[k - 1] = simd::multiply_add(weight[k], g, pending[k]), x[k - 1] = x[k];
    }
    simd::store(d_bias_ + j * W, d_bias);
    for (Index k = 0; k < K; ++k) simd::store(pending_ + at(j, k), pending[k]), simd::store(d_weight_ + at(j, k), d_weight[k]);
  }

  void step(Index s, Sequences::Range const& range, Index t, Index j) {
    Index const K = K_;
    Acc const* const weight = weight_ + at(j, 0);
    Acc *const pending = pending_ + at(j, 0), *const d_weight = d_weight_ + at(j, 0);
    Pack g = lanes(&a_.d_y(range.batch, t, channel(j)), j);
    if (a_.silu) {
      Pack sum = a_.bias ? lanes(&a_.bias[channel(j)], j) : Pack{};
      for (Index k = 0; k < K; ++k) sum = simd::multiply_add(simd::load(weight + k * W), input(s, range, t - (K - 1) + k, j), sum);
      Pack const gate = simd::sigmoid(sum);
      g *= gate * (Acc(1) + sum * (Acc(1) - gate));
    }
    simd::store(d_bias_ + j * W, simd::load(d_bias_ + j * W) + g);
    for (Index k = 0; k < K; ++k) {
      Pack const x = input(s, range, t - (K - 1) + k, j);
      simd::store(d_weight + k * W, simd::multiply_add(g, x, simd::load(d_weight + k * W)));
    }
    // pending holds what the K - 1 youngest inputs have so far; the newest begins with nothing, and the oldest is done.
    write(s, range, t - range.begin, j, simd::multiply_add(simd::load(weight), g, simd::load(pending)));
    for (Index k = 1; k < K; ++k)
      simd::store(pending + (k - 1) * W, simd::multiply_add(simd::load(weight + k * W), g, simd::load(pending + k * W)));
  }

  CausalConv1dBackwardArgs<T> const& a_;
  Index K_, first_, count_, packs_;
  Acc *d_bias_, *weight_, *pending_, *d_weight_;
};

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void causal_conv1d_backward_on(Cpu const& ctx, CausalConv1dBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  using Block = detail::ConvBackwardBlock<T>;
  auto const rows = [](auto const& view) { return !view || view.contiguous_rows(); };
  bool const fast = rows(a.x) && rows(a.d_y) && rows(a.bias) && rows(a.initial_state) && rows(a.d_last_state) && rows(a.d_x) &&
                    rows(a.d_initial_state);
  if (!fast) return causal_conv1d_backward_on(static_cast<Reference const&>(ctx), a);

  Index const batch = a.x.extent(0), D = a.x.extent(2);
  Sequences const sequences{"causal_conv1d_backward", a.offsets, batch, a.x.extent(1)};
  if (D == 0 || batch == 0) return;
  // Blocks as wide as a few cache lines, narrower where threads would stay idle. A lane's arithmetic does not depend on it.
  constexpr Index W = simd::width<Acc>;
  Index const width = std::clamp(ceil_div(ceil_div(D * batch, Index{2} * ctx.threads()), W) * W, W, Block::most_channels);
  Index const blocks = ceil_div(D, width);
  auto const scope = ctx.scratch().scope();
  auto const memory = ctx.scratch().template take<Acc>(Shape<2>{batch * blocks, Block::working_size(a.weight.extent(1))});
  auto const block = [&](Index task) {
    Index const first = task % blocks * width;
    return Block{a, first, std::min(width, D - first), &memory(task, 0)};
  };
  parallel_for(ctx.threads(), batch * blocks, [&](Index task) {
    auto here = block(task);
    here.begin();
    if (a.offsets)
      for (Index s = 0; s < sequences.count(); ++s) here.run(s, sequences[s]);
    else
      here.run(task / blocks, sequences[task / blocks]);
  });
  parallel_for(ctx.threads(), blocks, [&](Index i) {
    for (Index entry = 0; entry < batch; ++entry) block(entry * blocks + i).add_to_parameters();
  });
}

}  // namespace blackmamba
