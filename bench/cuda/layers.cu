// Layers of the published sizes on a GPU, as networks run them: the Mamba block and the mixture of experts, forward, with backward,
// and one decoding step. What a layer puts out, its gradients and a step are checked against the same layer on the CPU, from
// poisoned outputs; then all is timed.
//
// Times are medians of graph replays. Tokens go round buffers that together exceed the L2 cache, and so do the layers where their
// weights are most of what a call moves: steps, and few tokens. Of a step's tokens each has its own choice of expert. Activations
// that a layer keeps for its way back are part of forward with backward. Shares are those of the copy bandwidth and of the 8192³
// product of this run. Peers: mamba_ssm 2.3.2 and torch 2.11 on an H100, bf16.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>

#include <blackmamba/cuda.cuh>
#include <blackmamba/model/model.hpp>
#include <blackmamba/model/networks.hpp>
#include <blackmamba/model/parameters.hpp>
#include <blackmamba/train/optimiser.hpp>

#include "support/product.cuh"

using namespace blackmamba;

namespace {

using T = bf16;
using A = float;

double product_flops = 1;  // a second

/// A mixer as something that `Weights` can hold.
template <class M>
struct Alone {
  using Dims = blackmamba::Dims;
  template <class S>
  using Params = typename M::template Params<S>;
  template <class S>
  using State = typename M::template State<S>;
  static constexpr void parameters(auto& p, Dims const& d, auto& visit) { M::parameters(p, d, visit); }
  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) { M::state(s, d, batch, visit); }
};

/// A layer with random weights, and the states of `batch` sequences.
template <class M>
struct Layer {
  Dims d;
  Cuda ctx;
  Weights<Alone<M>, T, Cuda> weights{d, ctx};
  ModelState<Alone<M>, T, Cuda> state;

  Layer(Dims const& dims, Cuda const& context, std::uint64_t seed, Index batch = 0)
      : d{dims}, ctx{context}, state{dims, batch, context} {
    detail::InitialiseReader reader{Random{seed}, 2 * d.depth};
    weights.walk(d, reader);
  }
};

/// The layer's weights on the CPU, in S.
template <class S, class M>
Weights<Alone<M>, S> on_cpu(Layer<M> const& layer) {
  Weights<Alone<M>, S> out{layer.d};
  auto const flat = download(layer.ctx, layer.weights.flat());
  for (Index i = 0; i < flat.size(); ++i) out.flat()[i] = static_cast<S>(static_cast<accumulator_t<S>>(widen(flat(i))));
  return out;
}

/// √(Σ (got - exact)² / Σ exact²)
template <class Got>
double error(View<Got const, 1> got, View<double const, 1> exact) {
  double sum = 0, size = 0;
  for (Index i = 0; i < got.extent(0); ++i) {
    double const e = exact[i], g = static_cast<double>(widen(got[i]));
    sum += (g - e) * (g - e), size += e * e;
  }
  return size > 0 ? std::sqrt(sum / size) : sum;
}

/// As near to the exact values as the CPU comes with the same roundings, or nearer than bf16 tells numbers apart. A NaN is not.
template <class S, int Rank>
void expect_as_near(std::string const& what, Tensor<S, Rank> const& got, Tensor<S, Rank> const& usual,
                    Tensor<double, Rank> const& exact) {
  auto const flat = []<class X>(Tensor<X, Rank> const& t) { return View<X const, 1>{t.data(), Shape<1>{t.size()}}; };
  double const here = error(flat(got), flat(exact)), there = error(flat(usual), flat(exact));
  bench::expect(here <= 1.5 * there + 0x1p-9, concat(what, ": relative error ", here, ", on the CPU ", there));
}

/// Zeros for the rows (n, D) of tokens whose choice of expert could fall to another one by rounding, so that none of them is
/// compared: the two largest logits differ by less than a fiftieth. A layer without a choice has none.
template <class M>
void leave_out_close(Layer<M> const& layer, Tensor<T, 2> const& x, auto&... rows) {
  if constexpr (!std::is_same_v<M, Mamba>) {
    auto const& p = layer.weights.params();
    auto const wide = converted<double>(x), router = converted<double>(download(layer.ctx, p.router));
    auto const bias = converted<double>(download(layer.ctx, p.router_bias));
    Tensor<double, 2> logits{Shape<2>{x.extent(0), layer.d.n_experts}};
    linear(Reference{}, LinearArgs<double>{.x = wide, .weight = router, .bias = bias, .y = logits});
    for (Index t = 0; t < x.extent(0); ++t) {
      auto* const first = &logits(t, 0);
      std::partial_sort(first, first + 2, first + layer.d.n_experts, std::greater<>{});
      auto const clear = [&](auto& of) {
        for (Index i = 0; i < of.extent(1); ++i) of(t, i) = {};
      };
      if (first[0] - first[1] < 0.02) (clear(rows), ...);
    }
  }
}

/// The first rows of the one sequence that a layer is checked on, and what there is to compare.
struct Rows {
  static constexpr Index n = 48;

  template <class S>
  static Tensor<S, 2> of(Cuda const& ctx, View<S, 3> all) {
    return download(ctx, View<S const, 2>{all.data(), Shape<2>{std::min(n, all.extent(0) * all.extent(1)), all.extent(2)}});
  }
};

template <class S>
Tensor<S, 3> as_sequence(Tensor<T, 2> const& rows) {
  Tensor<S, 3> out{Shape<3>{1, rows.extent(0), rows.extent(1)}};
  for (Index i = 0; i < rows.size(); ++i) out.data()[i] = static_cast<S>(static_cast<accumulator_t<S>>(widen(rows.data()[i])));
  return out;
}
template <class S>
Tensor<S, 2> as_rows(Tensor<S, 3> const& sequence) {
  Tensor<S, 2> out{Shape<2>{sequence.extent(1), sequence.extent(2)}};
  std::copy(sequence.begin(), sequence.end(), out.begin());
  return out;
}

/// What a layer makes of some rows on the CPU, in S.
template <class S>
struct OnCpu {
  Tensor<S, 2> y, d_x;
  Tensor<accumulator_t<S>, 1> gradients;

  template <class M>
  OnCpu(Layer<M> const& layer, Tensor<T, 2> const& x, Tensor<T, 2> const& d_y, bool backward)
      : y{x.shape()}, d_x{x.shape()}, gradients{Shape<1>{backward ? layer.weights.flat().size() : 0}} {
    Cpu const cpu;
    auto const weights = on_cpu<S>(layer);
    Arena tape, carry;
    Pass<Cpu, S> const pass{.ctx = cpu, .tape = &tape, .carry = &carry};
    typename M::template State<S> const* const none = nullptr;
    saved_t<M, S> saved;
    Tensor<S, 3> const in = as_sequence<S>(x), from = as_sequence<S>(d_y);
    Tensor<S, 3> out{in.shape()}, back{in.shape()};
    M::forward(pass, layer.d, weights.params(), in, out, none, &saved);
    y = as_rows(out);
    if (!backward) return;
    Weights<Alone<M>, accumulator_t<S>> sums{layer.d};
    M::backward(pass, layer.d, weights.params(), saved, in, from, back, sums.params());
    d_x = as_rows(back);
    std::copy(sums.flat().data(), sums.flat().data() + sums.flat().size(), gradients.begin());
  }
};

void report(std::string const& name, std::string const& shape, double ms, double flops, double bytes,
            bench::Ceilings const& ceilings, double peer) {
  std::printf("%-26s %-28s %9.4f", name.c_str(), shape.c_str(), ms);
  if (flops > 0) std::printf("  %6.1f TFLOP/s, %4.1f%% of the product", flops / ms * 1e-9, 1e5 * flops / ms / product_flops);
  if (bytes > 0) std::printf("  %5.1f%% of copy", 1e5 * bytes / ms / ceilings.bytes_per_second);
  if (peer > 0) std::printf("  peer %.3f ms: %.2fx", peer, peer / ms);
  std::printf("\n");
}

/// Forward, and forward with backward, of `tokens` tokens in sequences of `length`.
template <class M>
void passes(char const* name, Cuda const& ctx, bench::Ceilings const& ceilings, Dims const& d, Index tokens, Index length,
            double peer_forward, double peer_both, bool backward = true) {
  Shape<3> const shape{tokens / length, length, d.d_model};
  double const row_bytes = static_cast<double>(tokens * d.d_model) * sizeof(T);
  // With many tokens what is between their way in and out is many times the cache, and weights come from memory anyway.
  std::vector<std::unique_ptr<Layer<M>>> layers;
  for (std::uint64_t i = 0; i < (row_bytes < 1e7 ? 3u : 1u); ++i) layers.push_back(std::make_unique<Layer<M>>(d, ctx, 1 + i));
  struct Set {
    DeviceTensor<T, 3> x, d_y, y, d_x;
  };
  std::vector<Set> buffers;
  for (int i = 0; i < bench::sets_of(4 * row_bytes, 8); ++i) {
    auto const stream = static_cast<std::uint64_t>(2 * i);
    buffers.push_back({bench::random_on_device<T>(ctx, shape, stream + 1),
                       bench::random_on_device<T>(ctx, shape, stream + 2, 0, 0.01f),
                       {ctx, shape},
                       {ctx, shape}});
  }
  auto const set = [&](int i) -> Set const& { return buffers[static_cast<std::size_t>(i) % buffers.size()]; };
  auto const of = [&](int i) -> Layer<M>& { return *layers[static_cast<std::size_t>(i) % layers.size()]; };
  Arena tape{ctx.memory()}, carry{ctx.memory()};
  Pass<Cuda, T> const pass{.ctx = ctx, .tape = &tape, .carry = &carry};
  typename M::template State<T> const* const none = nullptr;
  Weights<Alone<M>, A, Cuda> gradients{d, ctx};
  saved_t<M, T> saved;
  auto const forward = [&](int i) { M::forward(pass, d, of(i).weights.params(), set(i).x, set(i).y, none); };
  auto const both = [&](int i) {
    auto const scope = tape.scope();
    auto const& b = set(i);
    M::forward(pass, d, of(i).weights.params(), b.x, b.y, none, &saved);
    M::backward(pass, d, of(i).weights.params(), saved, b.x, b.d_y, b.d_x, gradients.params());
  };

  // The first rows depend on the first inputs alone, and so do all gradients where those of other rows are 0.
  auto const& b0 = set(0);
  auto const x = Rows::of(ctx, b0.x.view());
  auto d_y = Rows::of(ctx, b0.d_y.view());
  leave_out_close(of(0), x, d_y);
  OnCpu<double> exact{of(0), x, d_y, backward};
  OnCpu<T> usual{of(0), x, d_y, backward};
  bench::poison_all(ctx, b0.y, b0.d_x);
  forward(0);
  auto y = Rows::of(ctx, b0.y.view());
  leave_out_close(of(0), x, y, usual.y, exact.y);
  expect_as_near(concat(name, " forward"), y, usual.y, exact.y);
  if (backward) {
    auto const timed = to_host(ctx, b0.d_y);
    set_zero(ctx, b0.d_y.view());
    upload(ctx, d_y.view(), View<T, 2>{b0.d_y.data(), d_y.shape()});
    both(0);
    expect_as_near(concat(name, " d_x"), Rows::of(ctx, b0.d_x.view()), usual.d_x, exact.d_x);
    auto const sums = download(ctx, gradients.flat());
    detail::SegmentReader reader;
    gradients.outline(d, reader);
    for (std::size_t i = 0; i < reader.segments.size(); ++i) {
      auto const& s = reader.segments[i];
      auto const one = [&]<class S>(Tensor<S, 1> const& flat) { return converted<S>(flat.view().slice(0, s.offset, s.elements)); };
      expect_as_near(concat(name, " gradient of parameter ", i), one(sums), one(usual.gradients), one(exact.gradients));
    }
    upload(ctx, timed.view(), b0.d_y.view());
  }

  double const flops = static_cast<double>(M::flops_per_token(d)) * static_cast<double>(tokens);
  auto const text = concat(tokens / length, " x ", length, ", d_model ", d.d_model);
  int const calls = std::max<int>(4, static_cast<int>(std::max(buffers.size(), layers.size())));
  report(concat(name, " forward"), text, bench::milliseconds(ctx, calls, forward), flops, 0, ceilings, peer_forward);
  if (backward)
    report(concat(name, " forward + backward"), text, bench::milliseconds(ctx, 2, both), 3 * flops, 0, ceilings, peer_both);
}

/// One decoding step of `batch` sequences.
template <class M>
void steps(char const* name, Cuda const& ctx, bench::Ceilings const& ceilings, Dims const& d, Index batch) {
  // Of a mixture, the experts that are chosen: at batch 1 one of them.
  double const share =
      std::is_same_v<M, Mamba> || batch > 8 ? 1.0 : static_cast<double>(d.top_k) / static_cast<double>(d.n_experts);
  double const weight_bytes = static_cast<double>(Weights<Alone<M>, T>{d}.flat().size()) * sizeof(T) * share,
               bytes = weight_bytes + 2 * static_cast<double>(state_bytes<Alone<M>, T>(d, batch));
  int const count = std::max(2, bench::sets_of(weight_bytes)), calls = 4 * count;
  std::vector<std::unique_ptr<Layer<M>>> layers;
  for (int i = 0; i < count; ++i) layers.push_back(std::make_unique<Layer<M>>(d, ctx, static_cast<std::uint64_t>(i), batch));
  auto const x = bench::random_on_device<T>(ctx, Shape<3>{calls, batch, d.d_model}, 1);
  DeviceTensor<T, 2> const y{ctx, Shape<2>{batch, d.d_model}};
  Pass<Cuda, T> const pass{.ctx = ctx};
  AtRest<Cuda> const weights_are{ctx};  // as in a model's step
  auto const step = [&](int i) {
    auto& layer = *layers[static_cast<std::size_t>(i % count)];
    M::step(pass, d, layer.weights.params(), x.view()[i], y, layer.state.views());
  };
  ctx.synchronize();

  // Four tokens, one after the other, of up to 8 sequences.
  Index const some = std::min(batch, Index{8});
  Tensor<T, 2> tokens{Shape<2>{4 * some, d.d_model}}, got{tokens.shape()};
  auto const keep = [&](View<T const, 2> from, Tensor<T, 2>& to, int i) {
    auto const rows = download(ctx, from.slice(0, 0, some));
    std::copy(rows.begin(), rows.end(), to.data() + i * rows.size());
  };
  for (int i = 0; i < 4; ++i) {
    bench::poison(ctx, y);
    step(i * count);
    keep(x.view()[i * count], tokens, i), keep(y.view(), got, i);
  }
  auto const on_host = [&]<class S>(Type<S>) {
    Cpu const cpu;
    auto const weights = on_cpu<S>(*layers[0]);
    ModelState<Alone<M>, S, Cpu> const state{d, some, cpu};
    auto const in = converted<S>(tokens);
    Tensor<S, 2> out{in.shape()};
    for (Index at = 0; at < in.extent(0); at += some)
      M::step(Pass<Cpu, S>{.ctx = cpu}, d, weights.params(), in.view().slice(0, at, some), out.view().slice(0, at, some),
              state.views());
    return out;
  };
  auto exact = on_host(Type<double>{});
  auto usual = on_host(Type<T>{});
  leave_out_close(*layers[0], tokens, got, usual, exact);
  expect_as_near(concat(name, " step"), got, usual, exact);

  double const ms = bench::milliseconds(ctx, calls, step);
  report(concat(name, " step"), concat("batch ", batch, ", d_model ", d.d_model), ms, 0, bytes, ceilings, 0);
  double const floor = 1e3 * bytes / ceilings.bytes_per_second;
  std::printf("%-26s %-28s %9.4f  its bytes' time %.4f; 1.5 times that + 3 us is %.4f\n", "", "", ms, floor, 1.5 * floor + 0.003);
}

}  // namespace

/// --steps: of the smaller size, few tokens and steps alone; --quick: what the targets name.
int main(int argc, char** argv) {
  bool const only_steps = argc > 1 && !std::strcmp(argv[1], "--steps");
  bool const quick = only_steps || (argc > 1 && !std::strcmp(argv[1], "--quick"));
  return bench::program(
      "all that is checked is as near to the exact values as the CPU's", [&](Cuda const& ctx, bench::Ceilings const& ceilings) {
        product_flops = bench::product_flops_per_second(ctx);
        std::printf("8192³ product %.0f TFLOP/s; bf16\n\n%-26s %-28s %9s\n", product_flops * 1e-12, "what", "shape", "ms");
        Dims const small = blackmamba_340m_1_5b, large = blackmamba_630m_2_8b;
        using Mixture = MoE<Top1Sigmoid, GeGlu>;
        if (!only_steps) {
          passes<Mamba>("Mamba", ctx, ceilings, small, 16384, 2048, 1.17, 5.14);
          passes<Mixture>("MoE", ctx, ceilings, small, 16384, 2048, 1.340, 0);
        }
        passes<Mixture>("MoE", ctx, ceilings, small, 64, 64, 0.268, 0, false);
        for (Index const batch : {1, 64}) steps<Mamba>("Mamba", ctx, ceilings, small, batch);
        steps<Mixture>("MoE", ctx, ceilings, small, 1);
        if (!quick) {
          passes<Mamba>("Mamba", ctx, ceilings, large, 16384, 2048, 1.63, 7.00);
          passes<Mixture>("MoE", ctx, ceilings, large, 16384, 2048, 1.749, 0);
          passes<Mixture>("MoE", ctx, ceilings, small, 2048, 2048, 0.534, 0, false);
          steps<Mixture>("MoE", ctx, ceilings, small, 64);
          steps<Mamba>("Mamba", ctx, ceilings, large, 1);
        }
      });
}
